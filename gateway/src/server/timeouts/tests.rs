//! Times of connections, told by a clock of the test.

use super::super::connections::Crowd;
use super::*;

fn crowd() -> (Crowd, Rc<Watch>) {
    let crowd = Crowd::default();
    let watch = crowd.enter(Times { read: 10_000, write: 20_000, idle: 60_000 });
    (crowd, watch)
}

/// Beats every second until `end`, and says when whose time was up.
fn beat_until(crowd: &Crowd, end: u64) -> Vec<(u64, Phase)> {
    let mut phases = Vec::new();
    for second in crowd.now() / 1000 + 1..=end {
        crowd.beat(Duration::from_secs(second), |phase| phases.push((second, phase)));
    }
    phases
}

#[test]
fn a_head_that_does_not_come_is_given_up() {
    let (crowd, watch) = crowd();
    assert_eq!(beat_until(&crowd, 5), []);
    watch.arrived(b"GET / H");
    assert_eq!(beat_until(&crowd, 99), [(11, Phase::Head)]);
    assert_eq!(watch.order.get(), Order::Drop);
}

#[test]
fn dripping_octets_do_not_prolong_a_head() {
    let (crowd, watch) = crowd();
    for second in 0..11 {
        watch.arrived(b"G");
        assert_eq!(beat_until(&crowd, second), []);
    }
    assert_eq!(beat_until(&crowd, 11), [(11, Phase::Head)]);
}

#[test]
fn every_stage_has_its_own_time() {
    let (crowd, watch) = crowd();
    watch.replying();
    watch.flushed();
    assert_eq!(watch.stage.get(), Stage::Reply, "nothing was written yet");
    assert_eq!(beat_until(&crowd, 20), []);
    watch.written();
    watch.flushed();
    assert_eq!(watch.stage.get(), Stage::Idle);
    assert_eq!(beat_until(&crowd, 80), []);
    watch.arrived(b"G");
    assert_eq!(watch.stage.get(), Stage::Head);
    assert_eq!(beat_until(&crowd, 99), [(91, Phase::Head)]);
    assert!(!watch.malformed());
}

#[test]
fn a_finish_takes_back_no_drop_and_time_still_runs_out() {
    let (crowd, watch) = crowd();
    let other = crowd.enter(Times { read: 99_000, write: 20_000, idle: 60_000 });
    assert_eq!(beat_until(&crowd, 11), [(11, Phase::Head)]);
    crowd.finish();
    assert_eq!((watch.order.get(), other.order.get()), (Order::Drop, Order::Finish));
    assert_eq!(beat_until(&crowd, 200), [(100, Phase::Head)]);
}

#[test]
fn nobody_pays_for_a_late_beat() {
    let (crowd, _watch) = crowd();
    let mut expired = 0;
    crowd.beat(Duration::from_secs(100), |_| expired += 1);
    assert_eq!(expired, 0);
    crowd.beat(Duration::from_secs(101), |_| expired += 1);
    assert_eq!(expired, 1);
}

#[test]
fn an_answer_without_a_request_is_hypers_own() {
    let (_crowd, watch) = crowd();
    watch.written();
    assert!(watch.malformed() && watch.linger.get());
}

/// A connection that many requests share.
fn multiplexed() -> (Crowd, Rc<Watch>) {
    let (crowd, watch) = crowd();
    watch.secured(true);
    (crowd, watch)
}

#[test]
fn each_answer_of_a_shared_connection_has_its_time_whatever_becomes_of_others() {
    let (crowd, watch) = multiplexed();
    watch.arrived(b"PRI * HTTP/2.0");
    let stalled = watch.replying();
    for second in 1..=20 {
        // Others come and go, and octets are written.
        let other = watch.replying();
        watch.written();
        watch.pushed(7, true);
        drop(other);
        assert_eq!(beat_until(&crowd, second), []);
    }
    assert_eq!(beat_until(&crowd, 99), [(21, Phase::Reply)]);
    drop(stalled);
}

#[test]
fn a_shared_connection_is_idle_when_its_last_answer_is_gone() {
    let (crowd, watch) = multiplexed();
    let answers = [watch.replying(), watch.replying(), watch.replying()];
    assert_eq!(beat_until(&crowd, 13), []);
    assert_eq!(watch.idle(), None);
    drop(answers);
    assert_eq!(watch.idle(), Some((false, 13_000)));
    assert_eq!(beat_until(&crowd, 99), [(74, Phase::Idle)]);
}

#[test]
fn octets_that_the_stream_does_not_take_have_the_time_of_a_reply() {
    let (crowd, watch) = multiplexed();
    drop(watch.replying());
    assert_eq!(beat_until(&crowd, 7), []);
    watch.pushed(11, false);
    watch.pushed(11, false);
    assert_eq!((watch.stalled(), watch.idle()), (Some((7000, 11)), None));
    watch.pushed(0, true);
    assert_eq!((watch.stalled(), watch.shared.waiting.get()), (None, 0));
    watch.pushed(13, false);
    assert_eq!(beat_until(&crowd, 99), [(28, Phase::Reply)]);
    assert_eq!(watch.shared.waiting.get(), 0, "what is to close waits no longer");
    watch.pushed(0, true);
    assert_eq!(watch.shared.waiting.get(), 0);
}

#[test]
fn part_of_a_further_head_that_came_with_the_first_is_a_head() {
    let (crowd, watch) = crowd();
    watch.arrived(b"GET / HTTP/1.1\r\n\r\nGET /ann");
    watch.replying();
    watch.written();
    watch.flushed();
    assert_eq!((watch.stage.get(), watch.idle()), (Stage::Head, Some((true, 0))));
    assert_eq!(beat_until(&crowd, 99), [(11, Phase::Head)]);
}

#[test]
fn whoever_has_begun_to_ask_makes_room_last() {
    let (crowd, asking) = crowd();
    asking.arrived(b"GET / HT");
    assert_eq!(beat_until(&crowd, 3), []);
    let silent = crowd.enter(asking.times);
    for next in [&silent, &asking] {
        assert!(next.is_free() && crowd.make_room());
        assert_eq!(next.order.get(), Order::Drop);
    }
    assert!(!crowd.make_room());
}
