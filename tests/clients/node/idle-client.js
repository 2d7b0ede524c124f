// Sockets and sessions of every kind that are silent for longer than proxies usually tolerate, and then still work.
'use strict';

const assert = require('node:assert/strict');
const { AsyncLocalStorage } = require('node:async_hooks');
const { setTimeout } = require('node:timers/promises');
const { Socket } = require('engine.io-client');
const SockJS = require('sockjs-client');
const { WebSocket } = require('ws');
const { Jar, judge, next, withCookies } = require('./common');

const SILENCE_MS = 35_000;

// Each session has its own cookies.
const jars = new AsyncLocalStorage();
withCookies(
  () => jars.getStore(),
  () => {},
);

// For each kind: opens it now, and returns a function that sends a text and returns the response.
const kinds = {
  'a WebSocket': webSocket,
  'a SockJS session over websocket': (origin) => sockJs(origin, 'websocket'),
  'a SockJS session over xhr-streaming': (origin) => sockJs(origin, 'xhr-streaming'),
  'a SockJS session over xhr-polling': (origin) => sockJs(origin, 'xhr-polling'),
  'an engine.io session over websocket': (origin) => engineIo(origin, 'websocket'),
  'an engine.io session over polling': (origin) => engineIo(origin, 'polling'),
};

async function webSocket(origin) {
  const socket = new WebSocket(origin.replace(/^http/, 'ws') + '/ws');
  await next(socket, 'open');
  socket.on('error', () => {});
  return async (text) => {
    assert.equal(socket.readyState, WebSocket.OPEN, 'closed while idle');
    const answer = next(socket, 'message');
    socket.send(text);
    return String((await answer)[0]);
  };
}

async function sockJs(origin, transport) {
  const session = new SockJS(`${origin}/sockjs`, null, { transports: [transport] });
  const called = (listener) =>
    new Promise((resolve, reject) => {
      session.onclose = ({ code, reason }) => reject(new Error(`closed with ${code} ${reason}`));
      session[listener] = resolve;
    });
  await called('onopen');
  return async (text) => {
    assert.equal(session.readyState, SockJS.OPEN, 'closed while idle');
    const answer = called('onmessage');
    session.send(text);
    return (await answer).data;
  };
}

async function engineIo(origin, transport) {
  const client = new Socket(origin, { transports: [transport] });
  await next(client, 'open');
  return async (text) => {
    assert.equal(client.readyState, 'open', 'closed while idle');
    const answer = next(client, 'message');
    client.send(text);
    return (await answer)[0];
  };
}

async function outliveSilence(open, origin) {
  const ask = await open(origin);
  assert.match(await ask('before'), /before$/);
  await setTimeout(SILENCE_MS);
  assert.match(await ask('after'), /after$/);
}

judge(
  async ({ origin, check }) => {
    const outlive = ([kind, open]) =>
      check(
        `${kind} outlives a long silence`,
        () => jars.run(new Jar(), () => outliveSilence(open, origin)),
        SILENCE_MS + 20_000,
      );
    await Promise.all(Object.entries(kinds).map(outlive));
  },
  { together: true },
);
