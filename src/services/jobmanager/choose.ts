/**
 * Which node to take work from: a pure choice over what is known of each.
 *
 * A node must answer, be on our network, and be done with its initial download. Among those the one with most work wins; equal work
 * (two blocks at one height) does not make us change, so that two nodes that disagree cannot make the jobs flap.
 */

export type NodeHealth = 'unasked' | 'down' | 'starting' | 'syncing' | 'wrong-network' | 'ok';

/** What is known of one node. */
export type NodeView = {
  name: string;
  health: NodeHealth;
  /** Plain words for the operator. */
  detail: string;
  bestHashDisplay: string | null;
  blocks: number;
  headers: number;
  /** Null when the node does not tell. */
  chainWork: bigint | null;
  /** Until then its templates are not wanted: one was refused or did not come. */
  avoidUntilMs: number;
};

/**
 * The name of the node to use, or null when none will do. `current` is kept unless another is better by work. A node to be avoided
 * is taken only when there is no other.
 */
export function chooseNode(
  views: readonly NodeView[],
  current: string | null,
  nowMs: number,
): string | null {
  const able = views.filter((view) => view.health === 'ok');
  const wanted = able.filter((view) => view.avoidUntilMs <= nowMs);
  const field = wanted.length > 0 ? wanted : able;
  let best = field.find((view) => view.name === current) ?? null;
  for (const view of field) {
    if (best === null || compareWork(view, best) > 0) best = view;
  }
  return best?.name ?? null;
}

/** Positive when `a` has more work than `b`: by chain work where both tell it, else by height. */
export function compareWork(a: NodeView, b: NodeView): number {
  if (a.chainWork !== null && b.chainWork !== null) {
    return a.chainWork > b.chainWork ? 1 : a.chainWork < b.chainWork ? -1 : 0;
  }
  return a.blocks - b.blocks;
}

/** Two healthy nodes of different opinion about the best chain, the first having more work (or equal), or null. */
export function findDisagreement(
  views: readonly NodeView[],
): { ahead: NodeView; behind: NodeView } | null {
  const able = views.filter((view) => view.health === 'ok' && view.bestHashDisplay !== null);
  for (const a of able) {
    for (const b of able) {
      if (a.bestHashDisplay !== b.bestHashDisplay && compareWork(a, b) >= 0 && a !== b)
        return { ahead: a, behind: b };
    }
  }
  return null;
}
