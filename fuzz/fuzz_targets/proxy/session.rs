//! A connection after its handshake, and what both ends do with it.

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use rustls::ClientConnection;

use super::{
    fault::Fault,
    peer::{Ends, Forger, SUITES, hear, say, wire},
    records::{MAX_RECORD, Opened, Records, sealed_length},
};

/// The next step.
#[derive(Arbitrary, Debug)]
pub enum Step<'a> {
    /// The client sends this many bytes.
    Say(u16),
    /// The server does.
    Answer(u16),
    /// The client updates its keys.
    NewKeys,
    /// This many bytes of what the client has sent arrive.
    Arrive(u16),
    /// The client sends a close_notify.
    Close,
    /// A bit of data in flight is flipped.
    Flip(u16),
    /// Foreign bytes are inserted.
    Inject(&'a [u8]),
    /// From now on, a peer with the client's keys ignores the protocol.
    Forge { content: u8, message: &'a [u8], padding: u8 },
    /// The same, with the given inner content of a record.
    Seal { outer: u8, inside: &'a [u8] },
}

/// Who uses the client's keys.
#[derive(Default)]
enum Peer {
    Client(Box<ClientConnection>),
    Forger(Forger),
    /// During the replacement of one by the other.
    #[default]
    Nobody,
}

struct Session {
    peer: Peer,
    records: Records,
    sent: Vec<u8>,
    received: Vec<u8>,
    said: Vec<u8>,
    heard: Vec<u8>,
    is_tls13: bool,
    closed: bool,
    /// Whether anything besides the client's own data is in flight.
    tampered: bool,
    /// How often the client has updated its keys since its last data, and at most.
    new_keys: (usize, usize),
    end: Option<Result<(), Fault>>,
}

/// Runs all steps over a connection with one of the suites.
pub fn run(suite: u8, steps: &[Step<'_>]) {
    static ENDS: LazyLock<[Ends; 6]> = LazyLock::new(|| SUITES.map(Ends::new));
    let suite = usize::from(suite) % SUITES.len();
    let (client, records) = ENDS[suite].connect();
    let mut session = Session {
        peer: Peer::Client(Box::new(client)),
        records,
        sent: Vec::new(),
        received: Vec::new(),
        said: Vec::new(),
        heard: Vec::new(),
        is_tls13: SUITES[suite].tls13().is_some(),
        closed: false,
        tampered: false,
        new_keys: (0, 0),
        end: None,
    };
    // Anything left becomes visible soon.
    for step in steps.iter().take(100) {
        session.take(step);
    }
    session.arrive(usize::MAX);
    session.judge();
}

impl Session {
    fn take(&mut self, step: &Step<'_>) {
        match step {
            Step::Say(length) => self.say(usize::from(*length)),
            Step::Answer(length) => self.answer(usize::from(*length)),
            Step::NewKeys => {
                if let Peer::Client(client) = &mut self.peer
                    && self.is_tls13
                    && !self.closed
                {
                    client.refresh_traffic_keys().unwrap();
                    self.sent.extend(wire(client));
                    self.new_keys.0 += 1;
                    self.new_keys.1 = self.new_keys.0.max(self.new_keys.1);
                }
            }
            Step::Arrive(length) => self.arrive(usize::from(*length)),
            Step::Close => {
                if let Peer::Client(client) = &mut self.peer {
                    client.send_close_notify();
                    self.sent.extend(wire(client));
                    self.closed = true;
                }
            }
            Step::Flip(at) => {
                if !self.sent.is_empty() {
                    let at = usize::from(*at) % (self.sent.len() * 8);
                    self.sent[at / 8] ^= 1 << (at % 8);
                    self.tampered = true;
                }
            }
            Step::Inject(bytes) => {
                self.sent.extend(*bytes);
                self.tampered |= !bytes.is_empty();
            }
            Step::Forge { content, message, padding } => {
                let record = self.forger().record(*content, message, usize::from(*padding));
                self.sent.extend(record);
            }
            Step::Seal { outer, inside } => {
                let record = self.forger().seal(*outer, inside.to_vec());
                self.sent.extend(record);
            }
        }
    }

    fn say(&mut self, length: usize) {
        if let Peer::Client(client) = &mut self.peer
            && !self.closed
        {
            let payload = vec![length as u8; length];
            self.sent.extend(say(client, &payload));
            self.said.extend(payload);
            self.new_keys.0 = if length > 0 { 0 } else { self.new_keys.0 };
        }
    }

    fn answer(&mut self, length: usize) {
        let payload = vec![length as u8; length];
        let mut room = vec![0; sealed_length(length)];
        let length = self.records.seal(&payload, &mut room).unwrap();
        if let Peer::Client(client) = &mut self.peer {
            assert_eq!(hear(client, &room[..length]).unwrap(), payload);
        }
    }

    fn forger(&mut self) -> &mut Forger {
        self.tampered = true;
        self.peer = match std::mem::take(&mut self.peer) {
            Peer::Client(client) => Peer::Forger(Forger::new(*client)),
            peer => peer,
        };
        match &mut self.peer {
            Peer::Forger(forger) => forger,
            Peer::Client(_) | Peer::Nobody => unreachable!("replaced above"),
        }
    }

    fn arrive(&mut self, length: usize) {
        let length = length.min(self.sent.len());
        self.received.extend(self.sent.drain(..length));
        if self.end.is_some() {
            return;
        }
        let mut room = vec![0xee; self.received.len()];
        let Opened { consumed, payload, end, .. } = self.records.open(&self.received, &mut room);
        assert!(payload <= consumed && consumed <= self.received.len());
        self.heard.extend(&room[..payload]);
        self.received.drain(..consumed);
        assert!(end.is_some() || self.received.len() < MAX_RECORD, "only what is not whole is left");
        self.end = end;
    }

    fn judge(mut self) {
        let Peer::Client(client) = &mut self.peer else { return };
        assert!(self.said.starts_with(&self.heard), "what was not said was heard");
        if let Some(Err(fault)) = self.end {
            assert!(self.tampered || self.new_keys.1 > 32, "{fault} for what the client has sent");
            let alert = self.records.seal_fault(fault).expect("the client sends no alert but the last");
            assert!(matches!(hear(client, &alert), Err(rustls::Error::AlertReceived(_))));
        } else if !self.tampered {
            assert!(self.heard == self.said && self.received.is_empty());
            assert_eq!(self.end.is_some(), self.closed);
        }
    }
}
