// A server-sent events backend: sends an event only after the client has reported the previous one.
// Usage: node events-backend.js NAME
'use strict';

const http = require('node:http');
const { complain, serve } = require('./common');

const [, , name] = process.argv;
const LAST = 50;
const streams = new Map();

/** Some events are larger than any buffer that a proxy could fill before it passes one on. */
function send(stream, number) {
  const padding = '.'.repeat(number % 10 === 0 ? 65536 : 0);
  stream.write(`data: ${JSON.stringify({ number, name, padding })}\n\n`);
}

const server = http.createServer((request, response) => {
  const { pathname, searchParams } = new URL(request.url, 'http://backend');
  const id = searchParams.get('id');
  if (pathname === '/events') {
    response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache' });
    streams.set(id, response);
    send(response, 1);
  } else if (!streams.has(id)) {
    complain(`unknown stream ${id}`);
    response.writeHead(404).end();
  } else {
    const number = Number(searchParams.get('number'));
    if (number < LAST) send(streams.get(id), number + 1);
    else streams.get(id).end();
    response.writeHead(204).end();
  }
});

serve(server);
