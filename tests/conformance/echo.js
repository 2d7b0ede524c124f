// An echo server on npm's `ws`, with permessage-deflate. Prints its port, and stops when its stdin is closed.
'use strict';

const { WebSocketServer } = require('ws');

// Small messages too: everything is compressed as requested.
const options = { host: '127.0.0.1', port: 0, maxPayload: 0, perMessageDeflate: { threshold: 0 } };
const server = new WebSocketServer(options, () => console.log(`listening ${server.address().port}`));

server.on('connection', (socket) => {
  // The client notices too: it gets the close.
  socket.on('error', () => {});
  socket.on('message', (data, binary) => socket.send(data, { binary }));
});

process.stdin.on('end', () => process.exit()).resume();
