// The npm package `engine.io-client`: many clients at once start with polling and upgrade to a WebSocket while they
// talk.
'use strict';

const assert = require('node:assert/strict');
const { Socket } = require('engine.io-client');
const { judge, next } = require('./common');

const CLIENTS = 30;
const MESSAGES = 20;

/** Sends numbered messages and returns the names of the backends that echoed them, in order. */
async function talk(client, label) {
  const names = new Set();
  for (let number = 0; number < MESSAGES; number++) {
    const echo = next(client, 'message');
    client.send(`${label} ${number}`);
    const [message] = await echo;
    const [name, text] = message.split(':');
    assert.equal(text, `${label} ${number}`);
    names.add(name);
  }
  return names;
}

/** One client, from its first poll to its close; returns the name of its backend. */
async function client(origin) {
  const client = new Socket(origin, { transports: ['polling', 'websocket'], withCredentials: true });
  const upgraded = new Promise((resolve, reject) => {
    client.once('upgrade', resolve);
    client.once('upgradeError', reject);
  });
  await next(client, 'open');
  const [early] = await Promise.all([talk(client, 'early'), upgraded]);
  assert.equal(client.transport.name, 'websocket');
  const late = await talk(client, 'late');
  const end = next(client, 'close');
  client.close();
  await end;
  const names = new Set([...early, ...late]);
  assert.equal(names.size, 1, `answered by ${[...names].join(' ')}`);
  return [...names][0];
}

judge(async ({ origin, backends, check }) => {
  await check('clients keep their session from polling to WebSocket', async () => {
    const names = await Promise.all(Array.from({ length: CLIENTS }, () => client(origin)));
    assert.equal(new Set(names).size, backends, names.join(' '));
  });
});
