// A SockJS backend: echoes every message prefixed with its own name, and reports sessions that it does not know.
// Usage: node sockjs-backend.js NAME
'use strict';

const http = require('node:http');
const sockjs = require('sockjs');
const { complain, serve } = require('./common');

const [, , name] = process.argv;
const TEN_MINUTES_MS = 600_000;

const service = sockjs.createServer({
  // Streaming responses end early, so that a session consists of many requests.
  response_limit: 4096,
  // No heartbeats: an idle session must be idle.
  heartbeat_delay: TEN_MINUTES_MS,
  log: (severity, line) => severity === 'error' && complain(line),
});
service.on('connection', (session) => session.on('data', (data) => session.write(`${name}:${data}`)));

const server = http.createServer();
service.installHandlers(server, { prefix: '/sockjs' });
server.prependListener('request', (request, response) => {
  response.setHeader('X-Backend', name);
  response.on('finish', () => {
    if (response.statusCode >= 400) complain(`${response.statusCode} for ${request.method} ${request.url}`);
  });
});

serve(server);
