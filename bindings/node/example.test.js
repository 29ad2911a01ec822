// How tests of a server use relive: started and seeded once, put back before each test.  node --test
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, beforeEach, describe, it } from 'node:test';
import { fileURLToPath } from 'node:url';
import * as relive from './relive.js';

const directory = await mkdtemp(join(tmpdir(), 'relive-node-'));
const socketPath = join(directory, 'socket');

// One request, one connection.
function ask(method, path) {
  return new Promise((resolve, reject) => {
    const asked = request({ socketPath, method, path, agent: false }, (response) => {
      let text = '';
      response.setEncoding('utf8').on('data', (part) => (text += part)).on('end', () => resolve(JSON.parse(text)));
    });
    asked.on('error', reject).end();
  });
}

describe('a shop with one order', () => {
  let shop;

  before(async () => {
    const program = fileURLToPath(new URL('example-server.js', import.meta.url));
    shop = await relive.spawn([process.execPath, program, socketPath], { ready: () => relive.listens(socketPath) });
    await ask('POST', '/orders?what=tea');
    await shop.snapshot('seeded');
  });
  beforeEach(() => shop.rollback('seeded'));
  after(async () => {
    await shop?.close();
    await rm(directory, { recursive: true });
  });

  for (const what of ['milk', 'bread', 'salt']) {
    it(`takes an order of ${what}`, async () => {
      assert.deepEqual(await ask('POST', `/orders?what=${what}`), ['tea', what]);
    });
  }

  it('has no order but the first', async () => {
    assert.deepEqual(await ask('GET', '/orders'), ['tea']);
  });

  it('tells what has changed', async () => {
    await ask('POST', '/orders?what=rice');
    const { differences } = await shop.diff('seeded');
    assert.ok(differences.some((one) => one.family === 'page'));
    assert.deepEqual((await shop.snapshots()).map((one) => one.snapshot), ['seeded']);
  });

  it('says what is wrong', async () => {
    await assert.rejects(shop.rollback('nothing'), { name: 'ReliveError', code: 'not_found', message: /has no snapshot 'nothing'/ });
    await assert.rejects(relive.spawn(['false'], { ready: () => false }), /has ended with status 1/);
    await assert.rejects(relive.spawn(['/no/such/program']), { code: 'ENOENT' });
  });
});
