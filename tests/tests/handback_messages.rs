// SPDX-License-Identifier: MIT OR Apache-2.0
//! Handshake messages that change no key (TLS 1.3): session tickets at any time, and a certificate
//! asked for after the handshake. They pass between records of data, which stay on the fast lane.

mod handback;

use handback::{Client, Ends, Found, SUITES12, SUITES13, Script, Server};
use ktlsshim_soak::program::{Cut, Io, Op, Step};

/// Control records went by the kernel, no key changed, and nothing was handed back.
fn passed(found: &Found, at_least: i64) {
    for (side, line) in found.ends() {
        assert_eq!(line.tx.rekeys + line.rx.rekeys, 0, "{}", found.text());
        assert_eq!(line.tx.handbacks + line.rx.handbacks, 0, "{}", found.text());
        let (sends, counter) = [(&line.rx, "AlgTlsRxControl"), (&line.tx, "AlgTlsTxControl")][side];
        assert!(sends.slow_records >= at_least, "{}", found.text());
        assert!(found.kernel.get(counter) >= at_least, "{}", found.text());
    }
    found.is_back();
}

#[test]
fn a_ticket_at_any_time() {
    let mut ends = Ends::new("msg-ticket");
    for (suite, tickets) in [(SUITES13[0], 2), (SUITES13[2], 0)] {
        let script = Script::new(suite)
            .with(|setup| setup.tickets = tickets)
            // It goes with the next write, between data that nobody has read yet, in front of a read,
            .op(Server, Op::Ticket)
            .write(Server, 1000)
            .write(Server, 30_000)
            .op(Client, Op::ReadOnce(500))
            .op(Server, Op::Ticket)
            .write(Server, 20_000)
            .read_all(Client)
            // several at once, by a handshake call, with nothing behind them,
            .op(Server, Op::Ticket)
            .op(Server, Op::Ticket)
            .op(Server, Op::Handshake)
            .op(Client, Op::ReadOnce(100))
            .rounds(1)
            // and while the client writes.
            .op(Server, Op::Ticket)
            .write(Server, 10)
            .write(Client, 40_000)
            .read_all(Server)
            .read_all(Client);
        let what = format!("{suite}, {tickets} at the handshake");
        ends.check(&what, &script.tail(), |found| passed(found, 5));
    }
}

#[test]
fn a_ticket_while_a_write_waits() {
    let mut ends = Ends::new("msg-parked");
    let script = Script::new(SUITES13[0])
        .op(Server, Op::Park(450_000))
        .op(Server, Op::Ticket)
        .op(Server, Op::Finish)
        .read_all(Client)
        .write(Server, 100)
        .read_all(Client);
    ends.check("parked", &script.tail(), |found| passed(found, 1));
}

#[test]
fn a_ticket_in_single_bytes() {
    let mut ends = Ends::new("msg-bytes");
    let script = Script::new(SUITES13[3])
        .cut(Client, Cut::Bytes)
        .op(Server, Op::Ticket)
        .write(Server, 50)
        .op(Client, Op::ReadOnce(10))
        .read_all(Client)
        .cut(Client, Cut::Whole);
    ends.check("bytes", &script.tail(), |found| passed(found, 1));
}

#[test]
fn a_certificate_after_the_handshake() {
    let mut ends = Ends::new("msg-pha");
    for shows in [true, false] {
        let mut script = Script::new(SUITES13[1])
            .with(|setup| setup.client_certificate = shows)
            .op(Server, Op::State);
        for turn in 0..2 {
            script = script
                .op(Server, Op::AskCertificate)
                .op(Server, Op::Handshake);
            // The second time with data of both under way.
            if turn == 1 {
                script = script.write(Server, 9000).write(Client, 9000);
            }
            script = script
                .op(Client, Op::ReadOnce(64))
                .op(Server, Op::ReadOnce(64))
                .read_all(Client)
                .read_all(Server)
                .rounds(1)
                .op(Server, Op::State);
        }
        let what = format!("client has one: {shows}");
        ends.check(&what, &script.tail(), |found| {
            let server: Vec<_> = found
                .lane
                .transcript
                .iter()
                .filter(|(_, a)| a.starts_with("S =state "))
                .collect();
            assert!(server[0].1.contains(" cert=0"), "{server:?}");
            let later = format!(" cert={}", i32::from(shows));
            let rest = &server[1..];
            assert!(rest.iter().all(|s| s.1.contains(&later)), "{server:?}");
            // CertificateRequest from the server, and its tickets; the client's answer.
            passed(found, 2);
            for (side, line) in found.ends() {
                let answers = if side == 0 { &line.tx } else { &line.rx };
                assert!(answers.slow_records >= 2, "{}", found.text());
            }
        });
    }
}

#[test]
fn a_certificate_after_the_handshake_with_keys_that_change() {
    let mut ends = Ends::new("msg-mixed");
    let mut script = Script::new(SUITES13[0]);
    for side in [Client, Server] {
        script = script
            .update(side, true)
            .op(Server, Op::AskCertificate)
            .op(Server, Op::Handshake)
            .op(Client, Op::ReadOnce(64))
            .op(Server, Op::ReadOnce(64))
            .op(Server, Op::Ticket)
            .write(side, 4000)
            .read_all(side.other())
            .rounds(1);
    }
    ends.check("mixed", &script.tail(), |found| {
        for (_, line) in found.ends() {
            assert!(
                line.tx.rekeys >= 2 && line.rx.rekeys >= 2,
                "{}",
                found.text()
            );
            assert_eq!(line.tx.handbacks + line.rx.handbacks, 0, "{}", found.text());
        }
        found.is_back();
    });
}

/// Both ends close before either has said anything: close_notify would be the first record to prove a
/// key by, and what follows it is clear text.
#[test]
fn clear_text_when_nothing_was_said() {
    let mut ends = Ends::new("msg-clear");
    for suite in [SUITES13[0], SUITES12[0]] {
        for first in [Client, Server] {
            let mut program = Script::new(suite).tail();
            let other = first.other();
            program.steps = [
                (first, Op::Shutdown),
                (other, Op::ReadOnce(100)),
                (other, Op::Shutdown),
                (first, Op::ReadOnce(100)),
                (first, Op::ClearSend(1272)),
                (other, Op::ClearSend(4000)),
                (other, Op::ClearReceive),
                (first, Op::ClearReceive),
            ]
            .map(|(side, op)| Step::Do(side, op))
            .into();
            ends.check(suite, &program, |_| ());
        }
    }
}

/// Data that went through a BIO of type SSL passes the shim's counts by: they must not decide what is
/// clear text.
#[test]
fn clear_text_after_a_bio_of_type_ssl() {
    let mut ends = Ends::new("msg-chain");
    for side in [Client, Server] {
        let other = side.other();
        let program = Script::new(SUITES13[0])
            .op(side, Op::ChainWrite(1858))
            .read_all(other)
            .op(side, Op::Shutdown)
            .op(other, Op::ReadOnce(100))
            .op(other, Op::Shutdown)
            .op(side, Op::ReadOnce(100))
            .op(side, Op::ClearSend(50))
            .op(other, Op::ClearReceive)
            .bare();
        ends.check("chain", &program, |_| ());
    }
}

/// Nor where a record is: one that waits in a buffer below must leave before the next.
#[test]
fn a_buffer_below_a_bio_of_type_ssl() {
    let mut ends = Ends::new("msg-chain-buffer");
    for side in [Client, Server] {
        let program = Script::new(SUITES13[0])
            .with(|setup| setup.ends[usize::from(side == Server)].io = Io::Buffer)
            .op(side, Op::ChainWrite(2))
            .op(side, Op::WriteTwice(2, 764))
            .read_all(side.other())
            .bare();
        ends.check("chain-buffer", &program, |_| ());
    }
}
