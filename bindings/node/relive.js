// Puts running processes back to an earlier state, in place, from Node's tests. No native add-on: it calls the program
// `relive` (RELIVE_PROGRAM, or in PATH), which takes some milliseconds more than a message to the keeper would.
//
//     const server = await relive.spawn(['redis-server', '--port', '7000'], { ready: () => connects(7000) });
//     before(async () => { await seed(7000); await server.snapshot('seeded'); });
//     beforeEach(() => server.rollback('seeded'));
//     after(() => server.close());

import { execFile, spawn as start } from 'node:child_process';
import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as pause } from 'node:timers/promises';

const PAUSE_MS = 10;

/** relive could not do what it was asked. code: "refused", "not_found", "busy", ...; report: of a rollback that failed. */
export class ReliveError extends Error {
  constructor(message, code, hint, report) {
    super(message);
    this.name = 'ReliveError';
    this.code = code;
    this.hint = hint;
    this.report = report;
  }
}

// Runs a command; its report. Exit status and report together say how it went (relive COMMAND --help).
function relive(...words) {
  const program = process.env.RELIVE_PROGRAM || 'relive';
  return new Promise((resolve, reject) => {
    execFile(program, [...words.map(String), '--json'], { maxBuffer: 2 ** 28 }, (failed, out, diagnostics) => {
      let report;
      try {
        report = JSON.parse(out);
      } catch {
        return reject(new ReliveError(`${program}: ${failed ? failed.message : 'no report'}`, 'not_found', 'name the program in RELIVE_PROGRAM'));
      }
      if (!failed) return resolve(report);
      const { message, kind, hint } = report.error ?? {};
      const refusals = (report.refusals ?? []).map((one) => `${one.object}: ${one.reason}`).join('; ');
      const what = message ?? (refusals || diagnostics.trim() || failed.message);
      reject(new ReliveError(what, kind ?? (report.fate === 'untouched' ? 'refused' : report.fate), hint, report));
    });
  });
}

/** A process and its descendants. */
export class Process {
  constructor(pid) {
    this.pid = pid;
  }

  /** Remembers its state. files: directories whose contents go back, too; replace: a snapshot of that name is forgotten. */
  snapshot(name, { files = [], replace = false, tracker } = {}) {
    const options = files.flatMap((directory) => ['--files', directory]);
    if (name !== undefined) options.push('--name', name);
    if (replace) options.push('--replace');
    if (tracker !== undefined) options.push('--tracker', tracker);
    return relive('snapshot', this.pid, ...options);
  }

  /** Puts it back. Rejects where something cannot be put back; nothing was changed then. */
  rollback(name) {
    return relive('rollback', '--to', name, this.pid);
  }

  diff(name) {
    return relive('diff', name, this.pid);
  }

  async snapshots() {
    return (await relive('list', this.pid)).snapshots;
  }

  /** Forgets a snapshot, or all of them. With the last one nothing of relive's stays in the process. */
  drop(name) {
    return name === undefined ? relive('drop', '--all', this.pid) : relive('drop', name, this.pid);
  }
}

/** A process that we have started: close() ends it, and with it its snapshots. */
class Spawned extends Process {
  constructor(child) {
    super(child.pid);
    this.child = child;
  }

  async close() {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    await this.drop().catch(() => {}); // so that its keeper has ended when we come back
    const ended = once(this.child, 'exit');
    this.child.kill('SIGKILL');
    await ended;
  }
}

/** A process that somebody else has started. */
export function adopt(pid) {
  return new Process(pid);
}

/** Does somebody listen there? For `ready`. where: a port, the path of a unix socket, or what net.connect() takes. */
export async function listens(where) {
  const socket = connect(where);
  try {
    await once(socket, 'connect');
    return true;
  } catch {
    return false;
  } finally {
    socket.destroy();
  }
}

/**
 * Starts a command and waits until it is ready. It gets no input, and its output goes nowhere unless `stdio` says so: a pipe to
 * us would have its contents taken back with it. ready: a function that gives (a promise of) something true.
 */
export async function spawn([program, ...words], { ready = () => true, readyTimeout = 60_000, stdio = 'ignore', ...options } = {}) {
  const child = start(program, words, { stdio, ...options });
  await once(child, 'spawn');
  const server = new Spawned(child);
  const end = Date.now() + readyTimeout;
  try {
    while (!(await ready())) {
      if (child.exitCode !== null || child.signalCode !== null) throw new Error(`${program} has ended with status ${child.exitCode ?? child.signalCode}`);
      if (Date.now() > end) throw new Error(`${program} is not ready`);
      await pause(PAUSE_MS);
    }
  } catch (error) {
    await server.close();
    throw error;
  }
  return server;
}
