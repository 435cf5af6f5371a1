// SPDX-License-Identifier: MIT OR Apache-2.0
//! `openssl s_client` against `openssl s_server`, either of which may be under the shim, and somebody
//! types: k and K for new keys, R for a renegotiation, c for a client's certificate.
//!
//! The screens of both programs are compared with those of two plain ones, and the wire is judged.

mod handback;

use std::{cell::RefCell, fs, mem::replace};

use handback::{
    TAIL, re_keyed, renegotiated,
    tap::{Record, Tap},
};
use ktlsshim_tests::{
    programs::{Evidence, Lab, MIXES, Side, count, eventually},
    programs_fixture::identity,
    programs_talk::{SUITES, Talk, s_client, said, shimmed},
};

/// The two in conversation over a tapped wire.
struct Typing<'a> {
    talk: Talk,
    tap: Tap,
    /// The server's own.
    port: u16,
    lab: &'a Lab,
    handshakes: usize,
}

impl<'a> Typing<'a> {
    fn new(lab: &'a Lab, sides: [Side; 2], options: &str, more: [&str; 2]) -> Typing<'a> {
        let [server, client] = more;
        let [theirs, ours] = ["server", "client"].map(|who| {
            let path = lab.path(&format!("{who}.keys"));
            let _ = fs::remove_file(&path);
            format!("-keylogfile {}", path.display())
        });
        let more = [format!("{server} {theirs}"), format!("{client} {ours}")];
        let mut tap = None;
        let talk = Talk::by_way_of(lab, sides, options, [&more[0], &more[1]], |port| {
            tap.insert((Tap::new(port), port)).0.port
        });
        let (tap, port) = tap.expect("a tap");
        Typing {
            talk,
            tap,
            port,
            lab,
            handshakes: 1,
        }
    }

    /// Both ends have sent the Finished of one more handshake (TLS 1.2). Until then nobody says
    /// anything: s_client hangs in plain OpenSSL too, if data meets its ClientHello.
    fn shaken(&mut self) {
        self.handshakes += 1;
        for who in ["client", "server"] {
            let path = self.lab.path(&format!("{who}.keys"));
            eventually("the end of a renegotiation", || {
                count(&fs::read(&path).unwrap_or_default(), b"CLIENT_RANDOM") >= self.handshakes
            });
        }
    }

    fn finish(mut self, record: &Record) -> (Vec<String>, Evidence) {
        self.talk.hellos(TAIL);
        self.talk.client.say("Q\n");
        let over = self.talk.finish();
        record.keep(self.tap.end(), &self.lab.path("client.keys"));
        over
    }
}

#[test]
fn k_and_big_k_on_either_side() {
    let lab = Lab::new("type-k");
    let record = Record::default();
    for suite in [4, 6] {
        lab.differ(
            &MIXES,
            |server, client| {
                let mut typing = Typing::new(&lab, [server, client], SUITES[suite].0, ["", ""]);
                typing.talk.hellos(2);
                for command in ["k", "K"] {
                    typing.talk.client_does(command, "KEYUPDATE");
                    typing.talk.hello();
                    typing.talk.server.say_alone(&format!("{command}\n"));
                    typing.talk.hello();
                }
                // Two in a row, and one of each end at once.
                typing.talk.client_does("k", "KEYUPDATE");
                typing.talk.client_does("k", "KEYUPDATE");
                typing.talk.hello();
                typing.talk.server.say_alone("K\n");
                typing.talk.client_does("K", "KEYUPDATE");
                typing.talk.hellos(2);
                typing.finish(&record)
            },
            |mix, evidence, kernel| {
                let found = record.found(mix, evidence, kernel);
                let [client, server] = [0, 1].map(|side| found.wire[side].key_updates);
                // k: one; K: one and its answer. Two that cross need not both be answered.
                assert!(client >= 4 && server >= 4, "{}", found.text());
                re_keyed(&found, client, server);
            },
        );
    }
}

#[test]
fn r_on_either_side() {
    let lab = Lab::new("type-r");
    let record = Record::default();
    let demand = format!(
        "-client_renegotiation -CAfile {}",
        identity().cert.display()
    );
    let shown = format!(
        "-cert {} -key {}",
        identity().cert.display(),
        identity().key.display()
    );
    for (options, _) in [SUITES[0], SUITES[2]] {
        lab.differ(
            &MIXES,
            |server, client| {
                let mut typing = Typing::new(&lab, [server, client], options, [&demand, &shown]);
                typing.talk.hellos(2);
                typing.talk.client_does("R", "RENEGOTIATING");
                typing.shaken();
                typing.talk.hello();
                typing.talk.server.say_alone("r\n");
                typing.shaken();
                typing.talk.hello();
                // And with the client's certificate.
                typing.talk.server.say_alone("R\n");
                typing.shaken();
                typing.finish(&record)
            },
            |mix, evidence, kernel| renegotiated(&record.found(mix, evidence, kernel), 3),
        );
    }
}

/// A certificate in mid-life, then new keys, then tickets that came with it are used: the second
/// connection is resumed, and in the kernel like the first.
#[test]
fn c_then_keys_then_a_resumption() {
    let lab = Lab::new("type-c");
    let record = Record::default();
    let demand = format!("-verify 1 -CAfile {}", identity().cert.display());
    let shown = format!(
        "-enable_pha -cert {} -key {}",
        identity().cert.display(),
        identity().key.display()
    );
    let session = lab.path("session.pem");
    let second = RefCell::new(Evidence::default());
    const TICKET: &str = "Post-Handshake New Session Ticket arrived";
    lab.differ(
        &MIXES,
        |server, client| {
            let _ = fs::remove_file(&session);
            let more = format!("{shown} -sess_out {}", session.display());
            let demand = format!("{demand} -naccept 2");
            let sides = [server, client];
            let mut typing = Typing::new(&lab, sides, SUITES[5].0, [&demand, &more]);
            let printed = typing.talk.client.out.clone();
            typing.talk.client.expect(&printed, TICKET, 2);
            typing.talk.hellos(2);
            // It gets two more once it has the certificate.
            typing.talk.server.say_alone("c\n");
            typing.talk.client.expect(&printed, TICKET, 4);
            typing.talk.hello();
            typing.talk.client_does("K", "KEYUPDATE");
            typing.talk.hellos(TAIL);
            typing.talk.client.say("Q\n");

            let more = format!("{} {shown} -sess_in {}", SUITES[5].0, session.display());
            let again = s_client(&lab, client, typing.port, &more);
            let first = replace(&mut typing.talk.client, again.start()).wait();
            let mut all = said(&first, "first client");
            typing.talk.hellos(3);
            typing.talk.client.say("Q\n");
            let (more, mut evidence) = typing.talk.finish();
            record.keep(typing.tap.end(), &lab.path("client.keys"));
            assert!(
                more.iter()
                    .any(|l| l.contains("client out: Reused, TLSv1.3")),
                "{more:#?}"
            );
            all.extend(more);
            let resumed = Evidence {
                server: evidence.server.split_off(evidence.server.len() / 2),
                client: replace(&mut evidence.client, first.log),
            };
            second.replace(resumed);
            (all, evidence)
        },
        |mix, evidence, kernel| {
            let found = record.found(mix, evidence, kernel);
            for (_, line) in found.ends() {
                // Request and answer, besides tickets and key updates.
                let control = line.tx.slow_records + line.rx.slow_records;
                assert!(control >= 4, "{}", found.text());
            }
            re_keyed(&found, 1, 1);
            let second = second.borrow();
            for line in shimmed(mix, &second, 1) {
                assert!(line.offloaded(), "{}", second.describe());
            }
        },
    );
}
