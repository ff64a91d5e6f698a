import { after, before, describe } from 'node:test';
import { dbContract } from '../../contract/db.ts';
import { SERVER_KINDS, type TestServer } from '../../tools/database.ts';

for (const kind of SERVER_KINDS) {
  describe(kind.name, () => {
    let server: TestServer;
    before(async () => {
      server = await kind.start();
    });
    after(() => server.stop());
    dbContract(kind.name, () => server);
  });
}
