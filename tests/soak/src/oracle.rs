// SPDX-License-Identifier: MIT OR Apache-2.0
//! The wire oracle: reads a capture of both directions with the key log and says what is wrong with it.
//!
//! Each record must be well-formed and open under the key and the sequence number that are its turn;
//! explicit nonces (TLS 1.2 AES) must count up; and no key is ever used twice with one nonce, which is
//! looked for by itself, in a set, so that it is found also where an order check would not look.
//! What follows a close_notify is clear text and only counted.

use std::collections::{BTreeMap, HashMap, HashSet};

use ktlsshim_tests::peer::{self, Half};
use ktlsshim_tests::{Keys, Version};

use crate::schedule::Suite;

const CCS: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

#[derive(Default, Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub records: u64,
    pub data_bytes: u64,
    /// Of these, before the server said anything (0-RTT).
    pub early_bytes: u64,
    pub key_updates: u64,
    pub handshakes: u64,
    pub clear_bytes: u64,
    /// What came after the first handshake and was not data, by name.
    pub control: BTreeMap<&'static str, u64>,
    /// Bytes of a last record that is not whole.
    pub tail: usize,
}

impl Seen {
    fn add(&mut self, other: &Seen) {
        self.records += other.records;
        self.data_bytes += other.data_bytes;
        self.early_bytes += other.early_bytes;
        self.key_updates += other.key_updates;
        self.handshakes += other.handshakes;
        self.clear_bytes += other.clear_bytes;
        for (name, n) in &other.control {
            *self.control.entry(name).or_default() += n;
        }
        self.tail = other.tail;
    }
}

#[derive(Default)]
pub struct Nonces(HashSet<([u8; 32], [u8; 12])>);

impl Nonces {
    /// False: this key was used with this nonce before.
    pub fn add(&mut self, key: &[u8], nonce: [u8; 12]) -> bool {
        let mut padded = [0; 32];
        padded[..key.len()].copy_from_slice(key);
        self.0.insert((padded, nonce))
    }
}

/// The secrets of a key log by label and client random.
pub struct KeyLog(HashMap<(String, String), Vec<u8>>);

impl KeyLog {
    pub fn parse(lines: &[String]) -> KeyLog {
        let mut all = HashMap::new();
        for line in lines {
            let words: Vec<_> = line.split(' ').collect();
            if let [label, random, secret] = words[..] {
                all.insert((label.to_owned(), random.to_lowercase()), unhex(secret));
            }
        }
        KeyLog(all)
    }

    fn get(&self, label: &str, random: &[u8]) -> Result<&[u8], String> {
        let random: String = random.iter().map(|b| format!("{b:02x}")).collect();
        let found = self.0.get(&(label.to_owned(), random.clone()));
        found
            .map(Vec::as_slice)
            .ok_or_else(|| format!("the key log has no {label} for {random}"))
    }
}

fn unhex(s: &str) -> Vec<u8> {
    (0..s.len() / 2)
        .filter_map(|i| u8::from_str_radix(s.get(2 * i..2 * i + 2)?, 16).ok())
        .collect()
}

/// A direction, read on as far as the other one allows.
struct Way<'a> {
    wire: &'a [u8],
    at: usize,
    half: Option<Half>,
    /// Keys that the next ChangeCipherSpec switches on (TLS 1.2).
    next: Option<Keys>,
    /// TLS 1.2 AES: the first record under a key says where its explicit nonces begin.
    fresh: bool,
    secret: Vec<u8>,
    messages: Vec<u8>,
    closed: bool,
    finished: bool,
    dead: bool,
    /// Early data: its keys are in use, and this secret follows.
    after_early: Option<Vec<u8>>,
    seen: Seen,
}

struct Reading<'a> {
    log: KeyLog,
    ways: [Way<'a>; 2],
    nonces: Nonces,
    suite: Option<Suite>,
    client_random: Vec<u8>,
    /// A ClientHello that no ServerHello has answered.
    asked: bool,
    server_random: Vec<u8>,
}

/// The same where the ends began anew at `cuts`, at rest: each part is a connection of its own.
pub fn judge_parts(
    captured: &[Vec<u8>; 2],
    cuts: &[[usize; 2]],
    keylog: &[String],
) -> Result<[Seen; 2], String> {
    let mut sum: [Seen; 2] = Default::default();
    let mut from = [0, 0];
    let ends = cuts
        .iter()
        .copied()
        .chain([[captured[0].len(), captured[1].len()]]);
    for (n, to) in ends.enumerate() {
        let part = [0, 1].map(|side| captured[side][from[side]..to[side]].to_vec());
        let seen = judge(&part, keylog).map_err(|e| match cuts.is_empty() {
            true => e,
            false => format!("handshake {}: {e}", n + 1),
        })?;
        for (sum, seen) in sum.iter_mut().zip(seen) {
            if sum.tail > 0 {
                return Err(format!("handshake {n} ends inside a record"));
            }
            sum.add(&seen);
        }
        from = to;
    }
    Ok(sum)
}

/// `captured[0]` is what the client sent. Err: what is wrong, and where.
pub fn judge(captured: &[Vec<u8>; 2], keylog: &[String]) -> Result<[Seen; 2], String> {
    let way = |wire| Way {
        wire,
        at: 0,
        half: None,
        next: None,
        fresh: false,
        secret: Vec::new(),
        messages: Vec::new(),
        closed: false,
        finished: false,
        dead: false,
        after_early: None,
        seen: Seen::default(),
    };
    let mut reading = Reading {
        log: KeyLog::parse(keylog),
        ways: [way(&captured[0]), way(&captured[1])],
        nonces: Nonces::default(),
        suite: None,
        client_random: Vec::new(),
        asked: false,
        server_random: Vec::new(),
    };
    loop {
        let moved = reading.advance(0)? | reading.advance(1)?;
        if !moved {
            break;
        }
    }
    for (side, way) in reading.ways.iter_mut().enumerate() {
        let rest = way.wire.len() - way.at;
        if way.closed {
            way.seen.clear_bytes = rest as u64;
        } else if rest > 0 {
            let whole = way
                .wire
                .get(way.at..way.at + 5)
                .is_some_and(|h| rest >= 5 + peer::length(h));
            if whole {
                return Err(format!(
                    "side {side}: whole records at byte {} that no key is known for",
                    way.at
                ));
            }
            way.seen.tail = rest;
        }
    }
    Ok(reading.ways.map(|way| way.seen))
}

impl Reading<'_> {
    /// Reads records of one direction until it has to wait for the other.
    fn advance(&mut self, side: usize) -> Result<bool, String> {
        let mut moved = false;
        loop {
            let way = &self.ways[side];
            if way.closed {
                return Ok(moved);
            }
            let Some(head) = way.wire.get(way.at..way.at + 5) else {
                return Ok(moved);
            };
            let end = way.at + 5 + peer::length(head);
            let Some(record) = way.wire.get(way.at..end) else {
                return Ok(moved);
            };
            if side == 1 && is_whole(&way.messages) && way.messages.first() == Some(&2) {
                // The ServerHello there answers a ClientHello that is not read yet.
                if !self.asked {
                    return Ok(moved);
                }
                self.messages(side)?;
                moved = true;
                continue;
            }
            if self.must_wait(side, record) {
                return Ok(moved);
            }
            let at = way.at;
            self.record(side, record).map_err(|e| {
                format!(
                    "{} record {} at byte {at}: {e}",
                    ["client's", "server's"][side],
                    self.ways[side].seen.records
                )
            })?;
            self.ways[side].at = end;
            moved = true;
        }
    }

    /// The client's protected records need a suite, which the server's hello names; and a
    /// ChangeCipherSpec needs the keys that it switches on.
    fn must_wait(&self, side: usize, record: &[u8]) -> bool {
        let way = &self.ways[side];
        match self.suite {
            None => record[0] == CCS || record[0] == DATA,
            Some(suite) if suite.version == Version::Tls12 => {
                // Under protection too the type is in the header.
                record[0] == CCS && way.next.is_none()
            }
            Some(_) => record[0] == DATA && way.half.is_none(),
        }
    }

    fn record(&mut self, side: usize, record: &[u8]) -> Result<(), String> {
        let tls13 = self.suite.is_some_and(|s| s.version == Version::Tls13);
        let way = &mut self.ways[side];
        if way.dead {
            return Err("a record after a fatal alert".into());
        }
        if !(CCS..=DATA).contains(&record[0]) || record[1] != 3 || !(1..=3).contains(&record[2]) {
            return Err(format!("header {:02x?}", &record[..5]));
        }
        if way.half.is_none() || (tls13 && record[0] == CCS && !way.finished) {
            let body = record[5..].to_vec();
            way.seen.records += 1;
            return self.content(side, record[0], body);
        }
        let Some(half) = &mut way.half else {
            return Err("no keys".into());
        };
        let mut keys = half.keys().clone();
        if keys.explicit_nonce() {
            let Some(wire) = record.get(5..13) else {
                return Err("shorter than its nonce".into());
            };
            let explicit = u64::from_be_bytes(wire.try_into().expect("eight"));
            if !self.nonces.add(&keys.key, nonce(&keys, Some(explicit))) {
                return Err(format!(
                    "key and nonce {explicit:#x} are on the wire already"
                ));
            }
            if way.fresh {
                keys.set_nonce(explicit);
                *half = Half::new(keys);
            }
        } else if !self.nonces.add(&keys.key, nonce(&keys, None)) {
            return Err(format!(
                "key and nonce of record {} are on the wire already",
                keys.seq
            ));
        }
        way.fresh = false;
        let opened = match half.open(record) {
            // Early data that was refused has no end of its own: the handshake's keys follow.
            Err(_) if way.after_early.is_some() => {
                let secret = way.after_early.take().unwrap_or_default();
                self.install(side, secret);
                return self.record(side, record);
            }
            Err(e) => return Err(format!("number {}: {e:?}", half.seq())),
            Ok(opened) => opened,
        };
        way.seen.records += 1;
        self.content(side, opened.kind, opened.data)
    }

    fn content(&mut self, side: usize, kind: u8, data: Vec<u8>) -> Result<(), String> {
        let way = &mut self.ways[side];
        match kind {
            DATA => {
                way.seen.data_bytes += data.len() as u64;
                if way.after_early.is_some() {
                    way.seen.early_bytes += data.len() as u64;
                }
                if !way.messages.is_empty() {
                    return Err("data inside a handshake message".into());
                }
            }
            ALERT => {
                let name = match data[..] {
                    [_, 0] => {
                        way.closed = true;
                        "close_notify"
                    }
                    [2, _] => {
                        way.dead = true;
                        "fatal alert"
                    }
                    [1, _] => "warning alert",
                    _ => return Err(format!("an alert of {} bytes", data.len())),
                };
                *way.seen.control.entry(name).or_default() += 1;
            }
            CCS => {
                if data != [1] {
                    return Err("a ChangeCipherSpec that is none".into());
                }
                if let Some(keys) = way.next.take() {
                    way.half = Some(Half::new(keys));
                    way.fresh = true;
                }
            }
            HANDSHAKE => {
                way.messages.extend(data);
                self.messages(side)?;
            }
            other => return Err(format!("content type {other}")),
        }
        Ok(())
    }

    /// Takes the whole messages, up to a ServerHello that comes too early for us.
    fn messages(&mut self, side: usize) -> Result<(), String> {
        while self.asked || self.ways[side].messages.first() != Some(&2) {
            let Some(message) = self.message(side) else {
                break;
            };
            self.learn(side, &message)?;
        }
        Ok(())
    }

    fn message(&mut self, side: usize) -> Option<Vec<u8>> {
        let messages = &mut self.ways[side].messages;
        let end = length(messages).filter(|end| *end <= messages.len())?;
        let rest = messages.split_off(end);
        Some(std::mem::replace(messages, rest))
    }

    fn learn(&mut self, side: usize, message: &[u8]) -> Result<(), String> {
        let tls13 = self.suite.is_some_and(|s| s.version == Version::Tls13);
        if self.ways.iter().all(|way| way.seen.handshakes > 0) {
            let name = match message[0] {
                0 => "HelloRequest",
                1 => "ClientHello (renegotiation)",
                4 => "NewSessionTicket",
                13 if tls13 => "CertificateRequest (late)",
                24 => "KeyUpdate",
                _ => "other handshake message",
            };
            *self.ways[side].seen.control.entry(name).or_default() += 1;
        }
        match message[0] {
            1 => {
                self.client_random = message.get(6..38).ok_or("a short ClientHello")?.to_vec();
                self.asked = true;
            }
            2 => {
                self.asked = false;
                self.server_hello(message)?;
            }
            20 if tls13 && !self.ways[side].finished => {
                let label = ["CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"][side];
                let secret = self.log.get(label, &self.client_random)?.to_vec();
                let way = &mut self.ways[side];
                way.finished = true;
                way.seen.handshakes += 1;
                if !way.messages.is_empty() {
                    return Err("a message across a key change".into());
                }
                self.install(side, secret);
            }
            20 if !tls13 => self.ways[side].seen.handshakes += 1,
            // EndOfEarlyData
            5 if tls13 => {
                if let Some(secret) = self.ways[side].after_early.take() {
                    self.install(side, secret);
                }
            }
            24 if tls13 => {
                let way = &mut self.ways[side];
                if !way.messages.is_empty() {
                    return Err("a message across a key change".into());
                }
                way.seen.key_updates += 1;
                let suite = self.suite.ok_or("no suite")?;
                let secret = suite.next(&way.secret);
                let label = ["CLIENT", "SERVER"][side];
                let label = format!(
                    "{label}_TRAFFIC_SECRET_{}",
                    self.ways[side].seen.key_updates
                );
                // OpenSSL 1.1.1 does not log these; where they are, they must agree.
                if self
                    .log
                    .get(&label, &self.client_random)
                    .is_ok_and(|logged| logged != secret)
                {
                    return Err(format!("{label} is not what follows from the one before"));
                }
                self.install(side, secret);
            }
            _ => {}
        }
        Ok(())
    }

    fn install(&mut self, side: usize, secret: Vec<u8>) {
        if let Some(suite) = self.suite {
            self.ways[side].half = Some(Half::new(suite.traffic(&secret)));
            self.ways[side].secret = secret;
        }
    }

    fn server_hello(&mut self, message: &[u8]) -> Result<(), String> {
        self.server_random = message.get(6..38).ok_or("a short ServerHello")?.to_vec();
        let session = usize::from(*message.get(38).ok_or("a short ServerHello")?);
        let id = message
            .get(39 + session..41 + session)
            .ok_or("a short ServerHello")?;
        let id = u16::from_be_bytes([id[0], id[1]]);
        let suite = Suite::of(id).ok_or_else(|| format!("suite {id:#06x}"))?;
        self.suite = Some(suite);
        if suite.version == Version::Tls13 {
            for (side, label) in [
                "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
                "SERVER_HANDSHAKE_TRAFFIC_SECRET",
            ]
            .into_iter()
            .enumerate()
            {
                let secret = self.log.get(label, &self.client_random)?.to_vec();
                let early = self
                    .log
                    .get("CLIENT_EARLY_TRAFFIC_SECRET", &self.client_random);
                let early = early.ok().filter(|_| side == 0).map(<[u8]>::to_vec);
                if let Some(early) = early {
                    self.ways[side].after_early = Some(secret);
                    self.install(side, early);
                } else {
                    self.install(side, secret);
                }
            }
        } else {
            // A handshake that fails is not logged: then no ChangeCipherSpec may come.
            let Ok(master) = self.log.get("CLIENT_RANDOM", &self.client_random) else {
                return Ok(());
            };
            let [client, server] = suite.pair(master, &self.client_random, &self.server_random);
            self.ways[0].next = Some(client);
            self.ways[1].next = Some(server);
        }
        Ok(())
    }
}

/// Of the first handshake message, with its header.
fn length(messages: &[u8]) -> Option<usize> {
    let head = messages.get(1..4)?;
    Some(4 + (usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])))
}

fn is_whole(messages: &[u8]) -> bool {
    length(messages).is_some_and(|end| end <= messages.len())
}

fn nonce(keys: &Keys, explicit: Option<u64>) -> [u8; 12] {
    let mut nonce = keys.iv;
    match explicit {
        Some(explicit) => nonce[4..].copy_from_slice(&explicit.to_be_bytes()),
        None => nonce[4..]
            .iter_mut()
            .zip(keys.seq.to_be_bytes())
            .for_each(|(n, s)| *n ^= s),
    }
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;
    use ktlsshim_tests::random;

    /// A made-up connection: hellos in clear, then protected records, as `make` writes them.
    struct Made {
        captured: [Vec<u8>; 2],
        keylog: Vec<String>,
        halves: [Half; 2],
    }

    fn clear(kind: u8, body: &[u8]) -> Vec<u8> {
        [&peer::header(kind, body.len())[..], body].concat()
    }

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let n = (body.len() as u32).to_be_bytes();
        [&[kind, n[1], n[2], n[3]], body].concat()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// TLS 1.2 up to the Finished messages.
    fn made12(id: u16) -> Made {
        let (client, server, master) = (random(32), random(32), random(48));
        let suite = Suite::of(id).unwrap();
        let [mut c, mut s] = suite.pair(&master, &client, &server);
        if c.explicit_nonce() {
            c.set_nonce(7);
            s.set_nonce(u64::MAX);
        }
        let mut halves = [Half::new(c), Half::new(s)];
        let hello = |random: &[u8], rest: &[u8]| [&[3, 3], random, rest].concat();
        let mut captured = [
            clear(
                HANDSHAKE,
                &message(1, &hello(&client, &[0, 0, 2, 0xc0, 0x2b, 1, 0])),
            ),
            clear(
                HANDSHAKE,
                &message(
                    2,
                    &hello(&server, &[&[0][..], &id.to_be_bytes(), &[0]].concat()),
                ),
            ),
        ];
        for side in 0..2 {
            captured[side].extend(clear(CCS, &[1]));
            captured[side].extend(halves[side].seal(HANDSHAKE, &message(20, &[0; 12]), 0));
        }
        let keylog = vec![format!("CLIENT_RANDOM {} {}", hex(&client), hex(&master))];
        Made {
            captured,
            keylog,
            halves,
        }
    }

    #[test]
    fn a_good_connection_is_good() {
        for id in [0xc02b, 0xc02c, 0xcca9, 0xc0ac] {
            let mut made = made12(id);
            for n in 0..5 {
                made.captured[0].extend(made.halves[0].seal(DATA, &random(100 * n), 0));
                made.captured[1].extend(made.halves[1].seal(DATA, &random(1000), 0));
            }
            made.captured[1].extend(made.halves[1].seal(ALERT, &[1, 0], 0));
            made.captured[1].extend(b"clear");
            let seen = judge(&made.captured, &made.keylog).unwrap();
            assert_eq!(
                (seen[0].data_bytes, seen[1].data_bytes, seen[1].clear_bytes),
                (1000, 5000, 5)
            );
            assert_eq!((seen[0].handshakes, seen[1].handshakes), (1, 1));
        }
    }

    /// A record sealed by somebody who believes in an older state: same key, a nonce that was used.
    #[test]
    fn a_planted_repeat_is_caught() {
        for id in [0xc02b, 0xc0ac] {
            let mut made = made12(id);
            let old = made.halves[0].keys().clone();
            made.captured[0].extend(made.halves[0].seal(DATA, b"one", 0));
            made.captured[0].extend(Half::new(old).seal(DATA, b"two", 0));
            let error = judge(&made.captured, &made.keylog).unwrap_err();
            assert!(error.contains("on the wire already"), "{error}");
        }
    }

    /// Right number, but the explicit nonce was used with this key before: the tag is good, only the
    /// set can notice.
    #[test]
    fn a_repeat_that_opens_is_caught() {
        let mut made = made12(0xc02b);
        made.captured[0].extend(made.halves[0].seal(DATA, b"one", 0));
        let mut again = made.halves[0].keys().clone();
        again.set_nonce(again.nonce() - 1);
        let wire = Half::new(again.clone()).seal(DATA, b"two", 0);
        assert!(Half::new(again).open(&wire).is_ok());
        made.captured[0].extend(wire);
        let error = judge(&made.captured, &made.keylog).unwrap_err();
        assert!(error.contains("on the wire already"), "{error}");
    }

    #[test]
    fn a_lost_damaged_or_untold_record_is_caught() {
        let mut made = made12(0xcca9);
        made.halves[0].seal(DATA, b"lost", 0);
        made.captured[0].extend(made.halves[0].seal(DATA, b"next", 0));
        assert!(
            judge(&made.captured, &made.keylog)
                .unwrap_err()
                .contains("Tag")
        );

        let mut made = made12(0xc02b);
        made.captured[1].extend(made.halves[1].seal(DATA, b"data", 0));
        *made.captured[1].last_mut().unwrap() ^= 1;
        assert!(judge(&made.captured, &made.keylog).is_err());

        let mut made = made12(0xc02b);
        made.captured[1].extend(clear(DATA, b"not even sealed, although it says so"));
        assert!(judge(&made.captured, &made.keylog).is_err());
    }

    #[test]
    fn half_a_record_is_told() {
        let mut made = made12(0xc02b);
        made.captured[0].extend(&made.halves[0].seal(DATA, b"data", 0)[..9]);
        assert_eq!(judge(&made.captured, &made.keylog).unwrap()[0].tail, 9);
    }
}
