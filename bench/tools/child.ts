/**
 * Starts one of the benchmark's own programs in a process of its own and talks to it over the IPC channel: one request, one
 * answer, matched by number. Measuring client and measured server never share an event loop.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/** A request as it travels: `verb` picks the handler, `args` is anything JSON can hold. */
type Request = { id: number; verb: string; args: unknown };
type Answer = { id: number; ok: boolean; value?: unknown; error?: string };

/** The parent's end. */
export type Child = {
  /** Runs `verb` in the child; rejects with its error, or when it dies first. */
  ask<T>(verb: string, args?: unknown): Promise<T>;
  /** Ends the child and waits for it; kills it by id when it does not leave within 5 s. */
  stop(): Promise<void>;
  readonly process: ChildProcess;
};

/**
 * Forks `program` (file name beside this one).
 *
 * @param options.profileDirectory where a `--cpu-prof` file is written when the child leaves, or null
 */
export function startChild(
  program: string,
  options: { profileDirectory?: string | null; nodeOptions?: string[]; args?: string[] } = {},
): Child {
  const execArgv = [...(options.nodeOptions ?? [])];
  if (options.profileDirectory) {
    execArgv.push('--cpu-prof', `--cpu-prof-dir=${options.profileDirectory}`);
  }
  const child = fork(fileURLToPath(new URL(program, import.meta.url)), options.args ?? [], {
    execArgv,
    serialization: 'advanced',
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  const waiting = new Map<number, { resolve(value: unknown): void; reject(error: Error): void }>();
  let nextId = 1;
  let gone: Error | null = null;
  child.on('message', (message: Answer) => {
    const entry = waiting.get(message.id);
    if (entry === undefined) return;
    waiting.delete(message.id);
    if (message.ok) entry.resolve(message.value);
    else entry.reject(new Error(`${program}: ${message.error}`));
  });
  child.on('exit', (code, signal) => {
    gone = new Error(`${program} left with ${signal ?? code}`);
    for (const entry of waiting.values()) entry.reject(gone);
    waiting.clear();
  });
  return {
    process: child,
    ask<T>(verb: string, args?: unknown): Promise<T> {
      if (gone !== null) return Promise.reject(gone);
      const id = nextId++;
      return new Promise<T>((resolve, reject) => {
        waiting.set(id, { resolve: resolve as (value: unknown) => void, reject });
        child.send({ id, verb, args } satisfies Request);
      });
    },
    async stop() {
      if (gone !== null) return;
      const left = new Promise<void>((resolve) => child.once('exit', () => resolve()));
      child.disconnect();
      const timer = setTimeout(() => child.kill('SIGKILL'), 5000);
      await left;
      clearTimeout(timer);
    },
  };
}

/**
 * The child's end: serves `verbs` until the parent disconnects, then runs `leave` and exits.
 * A verb's error goes back to the parent as text.
 */
export function serveParent(
  verbs: Record<string, (args: never) => unknown>,
  leave: () => Promise<void> | void = () => {},
): void {
  process.on('message', (message: Request) => {
    const run = async (): Promise<unknown> => {
      const verb = verbs[message.verb];
      if (verb === undefined) throw new Error(`no verb ${message.verb}`);
      return await verb(message.args as never);
    };
    run().then(
      (value) => process.send?.({ id: message.id, ok: true, value } satisfies Answer),
      (error: unknown) =>
        process.send?.({
          id: message.id,
          ok: false,
          error: error instanceof Error ? (error.stack ?? error.message) : String(error),
        } satisfies Answer),
    );
  });
  process.on('disconnect', () => {
    Promise.resolve(leave()).then(
      () => process.exit(0),
      () => process.exit(1),
    );
  });
}
