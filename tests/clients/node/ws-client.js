// The npm package `ws` as a client: messages, fragments, pings, compression, subprotocols and closes.
'use strict';

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const { WebSocket } = require('ws');
const { Jar, judge, next } = require('./common');

const MEBIBYTE = 1 << 20;

/** An open socket, with the response that opened it as `socket.response`. */
async function open(origin, { path = '/ws', protocols = [], ...options } = {}) {
  const socket = new WebSocket(origin.replace(/^http/, 'ws') + path, protocols, options);
  // An error between two waits is reported by the next wait; without a listener it would end the process.
  socket.on('error', () => {});
  const [[response]] = await Promise.all([next(socket, 'upgrade'), next(socket, 'open')]);
  return Object.assign(socket, { response });
}

async function ask(socket, question) {
  const answer = next(socket, 'message');
  socket.send(question);
  const [data] = await answer;
  return String(data);
}

async function closed(socket) {
  const [code, reason] = await next(socket, 'close');
  return { code, reason: String(reason) };
}

/** Opens a socket, ends it as `end` says, and asks its backend how that looked there. */
async function endAsTheBackendSawIt(origin, end) {
  const id = crypto.randomUUID();
  const socket = await open(origin, { path: `/ws?id=${id}` });
  const jar = new Jar();
  jar.store(socket.response.headers['set-cookie']);
  const observer = await open(origin, { headers: jar.headers() });
  end(socket);
  const seen = JSON.parse(await ask(observer, `/end-of ${id}`));
  observer.terminate();
  return seen;
}

judge(async ({ origin, backends, check }) => {
  const socket = await open(origin);

  await check('text is echoed', async () => assert.equal(await ask(socket, 'größer 🚆'), 'größer 🚆'));

  await check('binary is echoed', async () => {
    const answer = next(socket, 'message');
    socket.send(Buffer.from([0, 255, 0x88, 0x89]));
    assert.deepEqual(await answer, [Buffer.from([0, 255, 0x88, 0x89]), true]);
  });

  await check('an empty message is echoed', async () => assert.equal(await ask(socket, ''), ''));

  await check('a mebibyte is echoed', async () => {
    const sent = crypto.randomBytes(MEBIBYTE);
    const answer = next(socket, 'message');
    socket.send(sent);
    const [received] = await answer;
    assert.ok(sent.equals(received));
  });

  await check('a fragmented message arrives as one, with a ping in its midst', async () => {
    const [answer, pong] = [next(socket, 'message'), next(socket, 'pong')];
    socket.send('one ', { fin: false });
    socket.ping('between');
    socket.send('two ', { fin: false });
    socket.send('three', { fin: true });
    assert.equal(String((await answer)[0]), 'one two three');
    assert.equal(String((await pong)[0]), 'between');
  });

  await check('a fragmented message arrives from the backend', async () =>
    assert.equal(await ask(socket, '/fragments'), 'one two three'));

  await check('a ping of the backend is answered', async () =>
    assert.equal(await ask(socket, '/ping tick'), 'pong tick'));

  await check('a thousand messages keep their order', async () => {
    const received = [];
    const all = new Promise((resolve) => {
      socket.on('message', (data) => received.push(Number(data)) === 1000 && resolve());
    });
    for (let number = 0; number < 1000; number++) socket.send(String(number));
    await all;
    assert.deepEqual(received, Array.from({ length: 1000 }, (_, index) => index));
  });
  socket.terminate();

  await check('permessage-deflate is negotiated end to end and saves bytes', async () => {
    const socket = await open(origin, { perMessageDeflate: { threshold: 0 } });
    assert.match(socket.extensions, /permessage-deflate/);
    assert.match(await ask(socket, '/extensions'), /permessage-deflate/);
    assert.equal(await ask(socket, 'x'.repeat(MEBIBYTE)), 'x'.repeat(MEBIBYTE));
    const { bytesRead, bytesWritten } = socket.response.socket;
    assert.ok(bytesRead < MEBIBYTE / 10, `${bytesRead} bytes came`);
    assert.ok(bytesWritten < MEBIBYTE / 10, `${bytesWritten} bytes went`);
    socket.terminate();
  });

  await check('no extension is invented', async () => {
    const socket = await open(origin, { perMessageDeflate: false });
    assert.equal(socket.extensions, '');
    assert.equal(await ask(socket, '/extensions'), '');
    socket.terminate();
  });

  await check('the backend chooses the subprotocol', async () => {
    const socket = await open(origin, { protocols: ['chat.v2', 'chat.v1'] });
    assert.equal(socket.protocol, 'chat.v1');
    socket.terminate();
  });

  await check('a close of the backend arrives with code and reason', async () => {
    const socket = await open(origin);
    const end = closed(socket);
    socket.send('/close 4001 see you later');
    assert.deepEqual(await end, { code: 4001, reason: 'see you later' });
  });

  await check('a close of the client arrives with code and reason, and is answered', async () => {
    let end;
    const seen = await endAsTheBackendSawIt(origin, (socket) => {
      end = closed(socket);
      socket.close(4002, 'that is all');
    });
    assert.deepEqual(seen, { code: 4002, reason: 'that is all' });
    assert.deepEqual(await end, { code: 4002, reason: 'that is all' });
  });

  await check('a close without a code arrives as one', async () => {
    const seen = await endAsTheBackendSawIt(origin, (socket) => socket.close());
    assert.deepEqual(seen, { code: 1005, reason: '' });
  });

  await check('the backend learns that a client is gone', () =>
    endAsTheBackendSawIt(origin, (socket) => socket.terminate()));

  await check('plain HTTP is answered beside the sockets', async () => {
    const answers = await Promise.all(['GET', 'POST'].map((method) => fetch(`${origin}/ws`, { method })));
    const texts = await Promise.all(answers.map((answer) => answer.text()));
    assert.match(texts[0], /^GET backend-\d$/);
    assert.match(texts[1], /^POST backend-\d$/);
  });

  await check('all backends have their share of the sockets', async () => {
    const sockets = await Promise.all(Array.from({ length: 12 }, () => open(origin)));
    const names = await Promise.all(sockets.map((socket) => ask(socket, '/name')));
    assert.equal(new Set(names).size, backends, names.join(' '));
    sockets.forEach((socket) => socket.terminate());
  });
});
