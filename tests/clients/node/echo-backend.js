// A WebSocket backend: echoes every message, and has commands for what an echo cannot show.
// Usage: node echo-backend.js NAME
'use strict';

const { EventEmitter } = require('node:events');
const http = require('node:http');
const { WebSocketServer } = require('ws');
const { next, serve } = require('./common');

const [, , name] = process.argv;
// How sockets opened with `?id=` ended, by id.
const ends = new Map();
const ended = new EventEmitter();

const commands = {
  '/name': (socket) => socket.send(name),
  '/extensions': (socket) => socket.send(socket.extensions),
  '/fragments': (socket) => {
    socket.send('one ', { fin: false });
    socket.send('two ', { fin: false });
    socket.send('three', { fin: true });
  },
  '/ping': async (socket, data) => {
    const pong = next(socket, 'pong');
    socket.ping(data);
    socket.send(`pong ${String(await pong)}`);
  },
  '/close': (socket, code, ...reason) => socket.close(Number(code), reason.join(' ')),
  // Responds once the socket with that id has ended, with the code and reason received here.
  '/end-of': async (socket, id) => {
    if (!ends.has(id)) await next(ended, id);
    socket.send(JSON.stringify(ends.get(id)));
  },
};

const server = http.createServer((request, response) => response.end(`${request.method} ${name}`));
const sockets = new WebSocketServer({
  server,
  perMessageDeflate: { threshold: 0 },
  handleProtocols: (offered) => offered.has('chat.v1') && 'chat.v1',
});

sockets.on('connection', (socket, request) => {
  const id = new URL(request.url, 'ws://backend').searchParams.get('id');
  socket.on('close', (code, reason) => {
    ends.set(id, { code, reason: String(reason) });
    ended.emit(id);
  });
  socket.on('message', (data, binary) => {
    const [word, ...rest] = binary ? [] : String(data.subarray(0, 200)).split(' ');
    if (word in commands) commands[word](socket, ...rest);
    else socket.send(data, { binary });
  });
});

serve(server);
