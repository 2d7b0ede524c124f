// Shared by the programs: how a backend reports its port and stops, how a client prints its result, and cookies.
'use strict';

const http = require('node:http');
const https = require('node:https');

const CHECK_DEADLINE_MS = 20_000;

/** Serves on a port of the system's choice and says which. Ends when whoever started it closes its stdin. */
function serve(server) {
  server.listen(0, '127.0.0.1', () => console.log(`listening ${server.address().port}`));
  process.stdin.on('end', () => process.exit()).resume();
}

/** Something that a backend behind a right proxy never sees; the test that started it reads these lines. */
function complain(what) {
  console.log(`complaint ${what}`);
}

/**
 * Runs a client's checks against each origin of the plan (the first argument, JSON), and prints one line of JSON: which
 * passed, and why the others failed. `checks` gets `{ origin, backends, check }`; one origin after the other, or all
 * `together`.
 */
async function judge(checks, { together = false } = {}) {
  const { origins, backends } = JSON.parse(process.argv[2]);
  const passed = [];
  const failed = {};
  const run = (origin) => {
    const check = async (name, body, deadline = CHECK_DEADLINE_MS) => {
      const title = `${new URL(origin).protocol} ${name}`;
      try {
        await within(deadline, body());
        passed.push(title);
      } catch (error) {
        failed[title] = error?.stack ?? String(error);
      }
    };
    return checks({ origin, backends, check }).catch((error) => {
      failed[`${origin}, outside of any check`] = error.stack;
    });
  };
  if (together) await Promise.all(origins.map(run));
  else for (const origin of origins) await run(origin);
  console.log(JSON.stringify({ passed, failed }));
  process.exit();
}

/** What `work` comes to, or a failure when that takes too long. */
function within(milliseconds, work) {
  let timer;
  const deadline = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`nothing after ${milliseconds} ms`)), milliseconds);
  });
  return Promise.race([work, deadline]).finally(() => clearTimeout(timer));
}

/** The arguments of the next event of this name; a failure when an error or the end comes instead. */
function next(emitter, name) {
  return new Promise((resolve, reject) => {
    const settle = (action, value) => {
      for (const [event, listener] of Object.entries(listeners)) emitter.off(event, listener);
      action(value);
    };
    const listeners = {
      error: (error) => settle(reject, error),
      close: (...why) => settle(reject, new Error(`closed (${why.join(' ')}) before ${name}`)),
      [name]: (...values) => settle(resolve, values),
    };
    for (const [event, listener] of Object.entries(listeners)) emitter.on(event, listener);
  });
}

/** The cookies of one client: as a browser has them, as far as one host and one path need it. */
class Jar {
  #cookies = new Map();

  /** Takes what `Set-Cookie` fields say. */
  store(fields = []) {
    for (const field of fields) {
      const [pair] = field.split(';');
      const equals = pair.indexOf('=');
      this.#cookies.set(pair.slice(0, equals).trim(), pair.slice(equals + 1).trim());
    }
  }

  /** Request headers with the `Cookie` field, if there is any cookie. */
  headers() {
    if (this.#cookies.size === 0) return {};
    return { Cookie: Array.from(this.#cookies, ([name, value]) => `${name}=${value}`).join('; ') };
  }
}

/**
 * Gives every later HTTP request of this process the cookies of `current()`, which browsers do by themselves and Node
 * does not. `seen` gets each request's path and response.
 */
function withCookies(current, seen) {
  for (const scheme of [http, https]) {
    const request = scheme.request;
    scheme.request = (options, listener) => {
      const jar = current();
      const sent = request({ ...options, headers: { ...options.headers, ...jar.headers() } }, listener);
      return sent.prependListener('response', (response) => {
        jar.store(response.headers['set-cookie']);
        seen(options.path, response);
      });
    };
  }
}

module.exports = { Jar, complain, judge, next, serve, withCookies };
