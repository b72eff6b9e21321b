//! The timeouts of connections, driven by the test's clock.

use super::super::connections::Connections;
use super::*;

fn connections() -> (Connections, Rc<ConnTimer>) {
    let connections = Connections::default();
    let timer = connections.add(ConnTimeouts { read: 10_000, write: 20_000, idle: 60_000 });
    (connections, timer)
}

/// Checks every second until `end`, and returns when whose time was up.
fn check_until(connections: &Connections, end: u64) -> Vec<(u64, Phase)> {
    let mut phases = Vec::new();
    for second in connections.now() / 1000 + 1..=end {
        connections.close_expired(Duration::from_secs(second), |phase| phases.push((second, phase)));
    }
    phases
}

#[test]
fn a_head_that_does_not_come_is_given_up() {
    let (connections, timer) = connections();
    assert_eq!(check_until(&connections, 5), []);
    timer.note_octets_in(b"GET / H");
    assert_eq!(check_until(&connections, 99), [(11, Phase::Head)]);
    assert_eq!(timer.order.get(), CloseOrder::Drop);
}

#[test]
fn dripping_octets_do_not_prolong_a_head() {
    let (connections, timer) = connections();
    for second in 0..11 {
        timer.note_octets_in(b"G");
        assert_eq!(check_until(&connections, second), []);
    }
    assert_eq!(check_until(&connections, 11), [(11, Phase::Head)]);
}

#[test]
fn every_stage_has_its_own_time() {
    let (connections, timer) = connections();
    timer.begin_reply();
    timer.note_flush();
    assert_eq!(timer.stage.get(), Stage::Reply, "nothing was written yet");
    assert_eq!(check_until(&connections, 20), []);
    timer.note_octets_out();
    timer.note_flush();
    assert_eq!(timer.stage.get(), Stage::Idle);
    assert_eq!(check_until(&connections, 80), []);
    timer.note_octets_in(b"G");
    assert_eq!(timer.stage.get(), Stage::Head);
    assert_eq!(check_until(&connections, 99), [(91, Phase::Head)]);
    assert!(!timer.is_malformed());
}

#[test]
fn a_finish_takes_back_no_drop_and_time_still_runs_out() {
    let (connections, timer) = connections();
    let other = connections.add(ConnTimeouts { read: 99_000, write: 20_000, idle: 60_000 });
    assert_eq!(check_until(&connections, 11), [(11, Phase::Head)]);
    connections.finish_all();
    assert_eq!((timer.order.get(), other.order.get()), (CloseOrder::Drop, CloseOrder::Finish));
    assert_eq!(check_until(&connections, 200), [(100, Phase::Head)]);
}

#[test]
fn no_connection_pays_for_a_late_check() {
    let (connections, _timer) = connections();
    let mut expired = 0;
    connections.close_expired(Duration::from_secs(100), |_| expired += 1);
    assert_eq!(expired, 0);
    connections.close_expired(Duration::from_secs(101), |_| expired += 1);
    assert_eq!(expired, 1);
}

#[test]
fn an_answer_without_a_request_is_hypers_own() {
    let (_connections, timer) = connections();
    timer.note_octets_out();
    assert!(timer.is_malformed() && timer.linger.get());
}

/// A connection that many requests share.
fn multiplexed() -> (Connections, Rc<ConnTimer>) {
    let (connections, timer) = connections();
    timer.set_tls(true);
    (connections, timer)
}

#[test]
fn each_answer_of_a_shared_connection_has_its_time_whatever_becomes_of_others() {
    let (connections, timer) = multiplexed();
    timer.note_octets_in(b"PRI * HTTP/2.0");
    let stalled = timer.begin_reply();
    for second in 1..=20 {
        // Others come and go, and octets are written.
        let other = timer.begin_reply();
        timer.note_octets_out();
        timer.note_write(7, true);
        drop(other);
        assert_eq!(check_until(&connections, second), []);
    }
    assert_eq!(check_until(&connections, 99), [(21, Phase::Reply)]);
    drop(stalled);
}

#[test]
fn a_shared_connection_is_idle_when_its_last_answer_is_gone() {
    let (connections, timer) = multiplexed();
    let answers = [timer.begin_reply(), timer.begin_reply(), timer.begin_reply()];
    assert_eq!(check_until(&connections, 13), []);
    assert_eq!(timer.idle_since(), None);
    drop(answers);
    assert_eq!(timer.idle_since(), Some((false, 13_000)));
    assert_eq!(check_until(&connections, 99), [(74, Phase::Idle)]);
}

#[test]
fn octets_that_the_stream_does_not_take_have_the_time_of_a_reply() {
    let (connections, timer) = multiplexed();
    drop(timer.begin_reply());
    assert_eq!(check_until(&connections, 7), []);
    timer.note_write(11, false);
    timer.note_write(11, false);
    assert_eq!((timer.stalled_since(), timer.idle_since()), (Some((7000, 11)), None));
    timer.note_write(0, true);
    assert_eq!((timer.stalled_since(), timer.shared.waiting.get()), (None, 0));
    timer.note_write(13, false);
    assert_eq!(check_until(&connections, 99), [(28, Phase::Reply)]);
    assert_eq!(timer.shared.waiting.get(), 0, "what is to close waits no longer");
    timer.note_write(0, true);
    assert_eq!(timer.shared.waiting.get(), 0);
}

#[test]
fn part_of_a_further_head_that_came_with_the_first_is_a_head() {
    let (connections, timer) = connections();
    timer.note_octets_in(b"GET / HTTP/1.1\r\n\r\nGET /ann");
    timer.begin_reply();
    timer.note_octets_out();
    timer.note_flush();
    assert_eq!((timer.stage.get(), timer.idle_since()), (Stage::Head, Some((true, 0))));
    assert_eq!(check_until(&connections, 99), [(11, Phase::Head)]);
}

#[test]
fn a_connection_with_part_of_a_request_makes_room_last() {
    let (connections, asking) = connections();
    asking.note_octets_in(b"GET / HT");
    assert_eq!(check_until(&connections, 3), []);
    let silent = connections.add(asking.timeouts);
    for next in [&silent, &asking] {
        assert!(next.has_no_order() && connections.make_room());
        assert_eq!(next.order.get(), CloseOrder::Drop);
    }
    assert!(!connections.make_room());
}
