// The npm package `sockjs-client` with each of its transports in Node, and the cookies that a browser would send.
'use strict';

const assert = require('node:assert/strict');
const { setImmediate } = require('node:timers/promises');
const SockJS = require('sockjs-client');
const { Jar, judge, withCookies } = require('./common');

const SESSIONS = 6;
const MESSAGES = 12;
const STREAMS = { 'xhr-streaming': '/xhr_streaming', eventsource: '/eventsource' };

// One session at a time: its cookies and responses.
let jar;
let responses;
withCookies(
  () => jar,
  (path, response) => responses.push({ path: path.split('?')[0], response }),
);

/** What a listener such as `onmessage` is called with next; a close in its place is a failure. */
function called(session, listener) {
  return new Promise((resolve, reject) => {
    session.onclose = ({ code, reason }) => reject(new Error(`closed with ${code} ${reason}`));
    session[listener] = resolve;
  });
}

/** One session, message by message: each is answered before the next one is sent, so nothing may wait in a buffer. */
async function session(origin, transport) {
  [jar, responses] = [new Jar(), []];
  // By default, the client gives a transport a few times the round trip that it measured, which on a busy machine is less
  // than opening one takes.
  const session = new SockJS(`${origin}/sockjs`, null, { transports: [transport], timeout: 10_000 });
  await called(session, 'onopen');
  assert.equal(session.transport, transport);
  const names = new Set();
  for (let number = 0; number < MESSAGES; number++) {
    const text = `${number} ${'.'.repeat(1000)}`;
    const echo = called(session, 'onmessage');
    session.send(text);
    const [name, answer] = (await echo).data.split(':');
    assert.equal(answer, text);
    names.add(name);
    if (number === 0 && transport in STREAMS) await assertStreamIsOpen(STREAMS[transport]);
  }
  const end = called(session, 'onclose');
  session.close(4003, 'done');
  assert.equal((await end).code, 4003);
  assert.equal(names.size, 1, `answered by ${[...names].join(' ')}`);
  return [...names][0];
}

/** The message has been read while its response goes on. */
async function assertStreamIsOpen(suffix) {
  await setImmediate();
  const stream = responses.findLast(({ path }) => path.endsWith(suffix));
  assert.equal(stream.response.complete, false, 'the message came with the end of its response');
}

/** Every request of the session was answered, by the backend that answered its messages. */
function assertOneBackend(name, transport) {
  const ofSession = responses.filter(({ path }) => path.split('/').length === 5);
  for (const { path, response } of ofSession) {
    assert.ok(response.statusCode < 300, `${response.statusCode} for ${path}`);
    assert.equal(response.headers['x-backend'], name, path);
  }
  if (transport !== 'websocket') assert.ok(ofSession.length > MESSAGES, `${ofSession.length} requests`);
}

judge(async ({ origin, backends, check }) => {
  for (const transport of ['websocket', 'xhr-streaming', 'xhr-polling', 'eventsource']) {
    await check(`${transport} sessions hold`, async () => {
      const names = new Set();
      for (let count = 0; count < SESSIONS; count++) {
        const name = await session(origin, transport);
        assertOneBackend(name, transport);
        names.add(name);
      }
      assert.equal(names.size, backends, `all sessions went to ${[...names].join(' ')}`);
    });
  }
});
