-- The first byte of extranonce1 of each gateway, so that no two of them hand out the same work. A row may be deleted by hand when its
-- gateway is gone for good.

CREATE TABLE gateway_leases (
 prefix smallint PRIMARY KEY CHECK (prefix BETWEEN 0 AND 255),
 -- Of the gateway's data directory, made by itself.
 identity uuid NOT NULL UNIQUE,
 -- As in share records, for people.
 name text NOT NULL,
 leased_at timestamptz NOT NULL DEFAULT now(),
 seen_at timestamptz NOT NULL DEFAULT now()
);
