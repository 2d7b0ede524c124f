// Reads server-sent events with `fetch` and reports each through another request; only then is the next one sent.
'use strict';

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const { Jar, judge } = require('./common');

const LAST = 50;

/** The events of a response body, as they come. */
async function* events(body) {
  let text = '';
  for await (const chunk of body.pipeThrough(new TextDecoderStream())) {
    text += chunk;
    for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
      yield JSON.parse(text.slice('data: '.length, end));
      text = text.slice(end + 2);
    }
  }
}

async function stream(origin) {
  const [id, jar] = [crypto.randomUUID(), new Jar()];
  const response = await fetch(`${origin}/events?id=${id}`);
  jar.store(response.headers.getSetCookie());
  assert.equal(response.headers.get('content-type'), 'text/event-stream');
  let expected = 1;
  for await (const { number } of events(response.body)) {
    assert.equal(number, expected++);
    const path = `/events/seen?id=${id}&number=${number}`;
    const { status } = await fetch(origin + path, { method: 'POST', headers: jar.headers() });
    assert.equal(status, 204);
  }
  assert.equal(expected, LAST + 1);
}

judge(async ({ origin, check }) => {
  await check('events arrive one by one', () => Promise.all(Array.from({ length: 6 }, () => stream(origin))));
});
