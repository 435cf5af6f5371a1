// SPDX-License-Identifier: MIT OR Apache-2.0
//! KeyUpdate (TLS 1.3) wherever it can fall: the kernel gets the next key of the direction at the
//! right record, and data goes on by the fast lane.

mod handback;

use handback::{Client, Ends, SUITES13, Script, Server, re_keyed};
use ktlsshim_soak::program::{Deed, Op};

#[test]
fn sent_by_either_end_requested_or_not() {
    let mut ends = Ends::new("ku-sent");
    for suite in SUITES13 {
        let mut script = Script::new(suite);
        for side in [Client, Server] {
            for ask in [false, true] {
                script = script
                    .update(side, ask)
                    .write(side, 3000)
                    .read_all(side.other())
                    .write(side.other(), 3000)
                    .read_all(side);
            }
        }
        // Two of its own, and an answer to the one in which the other end asked.
        ends.check(suite, &script.tail(), |found| re_keyed(found, 3, 3));
    }
}

#[test]
fn sent_by_a_handshake_or_a_read_call() {
    let mut ends = Ends::new("ku-calls");
    let mut script = Script::new(SUITES13[0]);
    for side in [Client, Server] {
        script = script
            // SSL_do_handshake sends it at once, without data.
            .update(side, true)
            .op(side, Op::Handshake)
            .op(side.other(), Op::ReadOnce(100))
            .write(side.other(), 500)
            .read_all(side)
            // SSL_read finds it waiting, and sends it.
            .update(side, false)
            .op(side, Op::ReadOnce(100))
            .write(side, 700)
            .read_all(side.other());
    }
    ends.check("calls", &script.tail(), |found| re_keyed(found, 3, 3));
}

#[test]
fn both_at_once() {
    let mut ends = Ends::new("ku-both");
    // They cross on the wire: each end has sent its own when the other's arrives.
    for (client_asks, server_asks) in [(false, false), (true, false), (false, true), (true, true)] {
        let script = Script::new(SUITES13[1])
            .update(Client, client_asks)
            .update(Server, server_asks)
            .write(Client, 5000)
            .write(Server, 5000)
            .read_all(Client)
            .read_all(Server)
            .rounds(1);
        let answers = |asked: bool| 1 + u64::from(asked);
        let what = format!("client asks {client_asks}, server asks {server_asks}");
        ends.check(&what, &script.tail(), |found| {
            re_keyed(found, answers(server_asks), answers(client_asks));
        });
    }
}

#[test]
fn both_at_once_under_load() {
    let mut ends = Ends::new("ku-load");
    let deeds = || {
        let mut list = Vec::new();
        for n in 0..4 {
            list.push(Deed::Write(60_000));
            list.push(Deed::KeyUpdate { ask: n % 2 == 1 });
        }
        list.push(Deed::Write(60_000));
        list
    };
    let script = Script::new(SUITES13[2]).together(deeds(), deeds());
    // How many answers are merged into one depends on who was faster.
    ends.check("load", &script.tail(), |found| {
        for side in 0..2 {
            assert!(found.wire[side].key_updates >= 5, "{}", found.text());
        }
        let [client, server] = [0, 1].map(|side| found.wire[side].key_updates);
        re_keyed(found, client, server);
    });
}

#[test]
fn many_in_a_row() {
    let mut ends = Ends::new("ku-many");
    let mut script = Script::new(SUITES13[0]);
    for side in [Client, Server] {
        // With data between them, and then one upon the other; the reader finds them all at once.
        for n in 0..10 {
            script = script.update(side, false).write(side, 200 + n);
        }
        for _ in 0..40 {
            script = script.update(side, false).op(side, Op::Handshake);
        }
        script = script.write(side, 1000).read_all(side.other());
        // And many that want an answer: OpenSSL owes one at a time.
        for _ in 0..5 {
            script = script
                .update(side, true)
                .write(side, 50)
                .read_all(side.other())
                .write(side.other(), 50)
                .read_all(side);
        }
    }
    ends.check("many", &script.tail(), |found| re_keyed(found, 60, 60));
}

#[test]
fn many_requests_before_one_answer() {
    let mut ends = Ends::new("ku-requests");
    let mut script = Script::new(SUITES13[3]);
    for side in [Client, Server] {
        for _ in 0..6 {
            script = script.update(side, true).write(side, 300);
        }
        script = script.read_all(side.other()).rounds(1);
    }
    ends.check("requests", &script.tail(), |found| {
        let [client, server] = [0, 1].map(|side| found.wire[side].key_updates);
        assert!(client > 6 && server > 6, "{}", found.text());
        re_keyed(found, client, server);
    });
}

#[test]
fn with_unread_data_queued() {
    let mut ends = Ends::new("ku-unread");
    let mut script = Script::new(SUITES13[1]);
    for side in [Client, Server] {
        let other = side.other();
        script = script
            // Data under three keys in the reader's queue, of which it has read a part.
            .write(side, 60_000)
            .op(other, Op::ReadOnce(1000))
            .op(other, Op::Peek(2000))
            .update(side, false)
            .write(side, 40_000)
            .update(side, true)
            .write(side, 20_000)
            // Its own key changes meanwhile, with its answer to come.
            .update(other, false)
            .write(other, 30_000)
            .op(
                other,
                Op::ReadPart {
                    percent: 60,
                    piece: 700,
                },
            )
            .write(other, 500)
            .op(side, Op::ReadOnce(9))
            .read_all(other)
            .write(other, 500)
            .read_all(side);
    }
    // One of its own in each half, another in the half in which it sends, and an answer.
    ends.check("unread", &script.tail(), |found| re_keyed(found, 4, 4));
}

#[test]
fn received_in_the_middle_of_a_large_write() {
    let mut ends = Ends::new("ku-write");
    // OpenSSL answers when the write is over: with partial writes that is after a record,
    // without them after all of it.
    for (ask, partial) in [(false, false), (true, true), (true, false)] {
        let mut script = Script::new(SUITES13[0]).with(|setup| {
            for end in &mut setup.ends {
                end.modes = end.modes & !1 | u8::from(partial);
            }
        });
        for side in [Client, Server] {
            let other = side.other();
            script = script
                // The writer meets a full socket; the update arrives before it can go on.
                .op(side, Op::Park(500_000))
                .update(other, ask)
                .write(other, 2000)
                .op(side, Op::ReadOnce(1500))
                .op(side, Op::Finish)
                .read_all(other)
                .read_all(side)
                .rounds(1);
        }
        let what = format!("asked {ask}, partial {partial}");
        ends.check(&what, &script.tail(), |found| {
            let n = 1 + u64::from(ask);
            re_keyed(found, n, n);
        });
    }
}

#[test]
fn asked_for_in_the_middle_of_a_large_write() {
    let mut ends = Ends::new("ku-parked");
    let mut script = Script::new(SUITES13[0]);
    for side in [Client, Server] {
        script = script
            .op(side, Op::Park(500_000))
            .update(side, true)
            .op(side, Op::Finish)
            .read_all(side.other())
            .update(side, false)
            .write(side, 100)
            .read_all(side.other())
            .rounds(1);
    }
    ends.check("parked", &script.tail(), |found| {
        let [client, server] = [0, 1].map(|side| found.wire[side].key_updates);
        assert!(client >= 1 && server >= 1, "{}", found.text());
        re_keyed(found, client, server);
    });
}
