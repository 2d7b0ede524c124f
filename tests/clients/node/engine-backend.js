// An engine.io backend: echoes every message prefixed with its own name, and reports sessions that it does not know.
// Usage: node engine-backend.js NAME
'use strict';

const http = require('node:http');
const engine = require('engine.io');
const { complain, serve } = require('./common');

const [, , name] = process.argv;
const TEN_MINUTES_MS = 600_000;

const server = http.createServer();
// No pings during a test: an idle client must be idle.
const service = engine.attach(server, { pingInterval: TEN_MINUTES_MS });
service.on('connection', (client) => client.on('message', (data) => client.send(`${name}:${data}`)));
service.on('connection_error', ({ req, message }) => complain(`${message}: ${req.method} ${req.url}`));

serve(server);
