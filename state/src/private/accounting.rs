//! What an announce is credited (`rules/private-accounting.md#amounts`). Pure: no clock, no lock.

use std::net::IpAddr;

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use super::peer::{Credit, UnixSeconds};
use crate::snapshot::site::Multipliers;

/// The largest amount that is credited at once: the most that a signed column holds.
pub(super) const AMOUNT_MAX: u64 = i64::MAX as u64;
/// Totals lower than those reported at most this many seconds ago are late, not a restart: datagrams overtake
/// each other, and a client that announces over both families keeps counting in between.
const REORDER_SECONDS: UnixSeconds = 60;
/// A shorter gap between two announces counts as this many seconds when amounts are checked: clocks are set,
/// and clients report late what they counted early.
const GAP_SECONDS_MIN: UnixSeconds = 60;
/// The address recorded for a hidden user: 127.0.0.1.
const HIDDEN_IP: u32 = 0x7f00_0001;
/// The first of the numbers that stand for IPv6 addresses: 240/4 is never the address of a client.
const IP6_BASE: u32 = 0xf000_0000;

/// The terms on which one announce is credited.
#[derive(Clone, Copy, Debug)]
pub(super) struct CreditTerms {
    /// Multipliers of the user, the group and the torrent, in this order.
    pub(super) multipliers: [Multipliers; 3],
    /// Whether downloads are not credited: global freeleech, or a token.
    pub(super) downloads_are_free: bool,
}

/// The totals and times of the previous announce and of this one.
#[derive(Clone, Copy, Debug)]
pub(super) struct TotalsProgress {
    pub(super) uploaded: (u64, u64),
    pub(super) downloaded: (u64, u64),
    pub(super) announced: (UnixSeconds, UnixSeconds),
    /// Longest time between two announces that counts, in seconds.
    pub(super) inactivity: UnixSeconds,
    /// Octets a second that are believed at most; 0 = no limit.
    pub(super) octets_per_second_max: u64,
}

impl TotalsProgress {
    /// Returns what has been transferred and how much of it is credited.
    pub(super) fn credit(&self, terms: &CreditTerms) -> Credit {
        let most = self.plausible_octets();
        let believed = |raw: u64| if raw > most { 0 } else { raw };
        let (raw_up, raw_down) =
            (believed(total_delta(self.uploaded)), believed(total_delta(self.downloaded)));
        let up = credited(raw_up, terms.multipliers.map(|multipliers| multipliers.up));
        let down = if terms.downloads_are_free {
            0
        } else {
            credited(raw_down, terms.multipliers.map(|multipliers| multipliers.down))
        };
        let passed = self.elapsed_seconds();
        let active_seconds = if passed > self.inactivity { 0 } else { passed };
        Credit { raw_up, raw_down, up, down, active_seconds }
    }

    /// Octets uploaded and downloaded that are not credited because nobody transfers that many in the time.
    pub(super) fn implausible(&self) -> [u64; 2] {
        let most = self.plausible_octets();
        [self.uploaded, self.downloaded]
            .map(|totals| Some(total_delta(totals)).filter(|raw| *raw > most).unwrap_or(0))
    }

    /// Whether these totals are older than those already known. If one decreased while the other grew, the
    /// client was restarted.
    pub(super) fn is_late(&self) -> bool {
        let totals = [self.uploaded, self.downloaded];
        let (lower, higher) = (
            totals.iter().any(|(before, now)| now < before),
            totals.iter().any(|(before, now)| now > before),
        );
        lower && !higher && self.elapsed_seconds() <= REORDER_SECONDS
    }

    fn elapsed_seconds(&self) -> UnixSeconds {
        let (before, now) = self.announced;
        now.saturating_sub(before)
    }

    fn plausible_octets(&self) -> u64 {
        match self.octets_per_second_max {
            0 => u64::MAX,
            most => most.saturating_mul(self.elapsed_seconds().max(GAP_SECONDS_MIN).into()),
        }
    }
}

/// Returns the growth of a total. A lower one is that of a restarted client: it is the new baseline.
fn total_delta((before, now): (u64, u64)) -> u64 {
    now.saturating_sub(before).min(AMOUNT_MAX)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "amounts are multiplied as f64; the cast back stops at the ends of its range"
)]
fn credited(raw: u64, factors: [f64; 3]) -> u64 {
    let amount = factors.iter().fold(raw as f64, |amount, factor| amount * factor.abs());
    (amount as u64).min(AMOUNT_MAX)
}

/// Returns the columns `ip` and `ip6` of `transfer_ips` for an address.
pub(super) fn ip_columns(address: IpAddr, hidden: bool) -> (u32, Option<[u8; 16]>) {
    match address {
        _ if hidden => (HIDDEN_IP, None),
        IpAddr::V4(address) => (address.to_bits(), None),
        IpAddr::V6(address) => {
            let octets = address.octets();
            let sum = digest(&SHA1_FOR_LEGACY_USE_ONLY, &octets);
            let first = sum.as_ref().first_chunk().map_or(0, |first| u32::from_be_bytes(*first));
            (IP6_BASE | first & !IP6_BASE, Some(octets))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Multipliers = Multipliers { up: 1.0, down: 1.0 };

    fn progress(uploaded: (u64, u64), downloaded: (u64, u64)) -> TotalsProgress {
        TotalsProgress {
            uploaded,
            downloaded,
            announced: (100, 100),
            inactivity: 4200,
            octets_per_second_max: 0,
        }
    }

    fn terms(multipliers: &[Multipliers]) -> CreditTerms {
        let mut all = [PLAIN; 3];
        all.iter_mut().zip(multipliers).for_each(|(to, from)| *to = *from);
        CreditTerms { multipliers: all, downloads_are_free: false }
    }

    #[test]
    fn multipliers_are_those_of_the_spec() {
        let user = Multipliers { up: 0.5, down: 2.0 };
        let (group, free_group) = (PLAIN, Multipliers { up: 2.0, down: 0.0 });
        let traffic = progress((1000, 1245), (7, 83_479));
        let credit = traffic.credit(&terms(&[user]));
        assert_eq!((credit.up, credit.down, credit.raw_up, credit.raw_down), (122, 166_944, 245, 83_472));
        let credit = traffic.credit(&terms(&[user, group, user]));
        assert_eq!((credit.up, credit.down), (61, 333_888));
        let credit = traffic.credit(&terms(&[PLAIN, free_group]));
        assert_eq!((credit.up, credit.down), (490, 0));
        let tenth = Multipliers { up: 0.1, down: -0.1 };
        let credit = progress((0, 1_000_000_000_000), (0, 1_000_000_000_000)).credit(&terms(&[tenth]));
        assert_eq!((credit.up, credit.down), (100_000_000_000, 100_000_000_000));
    }

    #[test]
    fn freeleech_touches_only_what_is_downloaded() {
        let credit =
            progress((0, 7), (0, 11)).credit(&CreditTerms { downloads_are_free: true, ..terms(&[]) });
        assert_eq!(credit, Credit { raw_up: 7, raw_down: 11, up: 7, down: 0, active_seconds: 0 });
    }

    #[test]
    fn totals_that_go_back_count_nothing_and_large_ones_stop_at_the_end() {
        let credit = progress((u64::MAX, 7), (11, 10)).credit(&terms(&[]));
        assert_eq!(credit, Credit::default());
        let many = Multipliers { up: 1e9, down: f64::MAX };
        let credit = progress((0, u64::MAX), (0, 1 << 62)).credit(&terms(&[many, many, many]));
        assert_eq!((credit.raw_up, credit.raw_down), (AMOUNT_MAX, 1 << 62));
        assert_eq!((credit.up, credit.down), (AMOUNT_MAX, AMOUNT_MAX));
    }

    #[test]
    fn time_counts_up_to_the_inactivity_and_never_backwards() {
        for (announced, active) in [((100, 107), 7), ((100, 4300), 4200), ((100, 4301), 0), ((100, 99), 0)] {
            let progress = TotalsProgress { announced, ..progress((0, 0), (0, 0)) };
            assert_eq!(progress.credit(&terms(&[])).active_seconds, active, "{announced:?}");
        }
    }

    #[test]
    fn amounts_that_nobody_transfers_in_that_time_are_not_credited() {
        let credit_after = |seconds: UnixSeconds, up: u64, down: u64| {
            let progress = TotalsProgress {
                announced: (100, 100 + seconds),
                octets_per_second_max: 1000,
                ..progress((7, 7 + up), (11, 11 + down))
            };
            let credit = progress.credit(&terms(&[]));
            assert_eq!(
                (credit.up, credit.down, credit.active_seconds),
                (credit.raw_up, credit.raw_down, seconds)
            );
            ((credit.raw_up, credit.raw_down), progress.implausible())
        };
        assert_eq!(credit_after(300, 300_000, 300_000), ((300_000, 300_000), [0, 0]));
        assert_eq!(credit_after(300, 300_001, 5), ((0, 5), [300_001, 0]));
        assert_eq!(credit_after(300, 5, 300_001), ((5, 0), [0, 300_001]));
        // A short gap is not checked as such: what was transferred may have been reported late.
        assert_eq!(credit_after(0, 60_000, 60_001), ((60_000, 0), [0, 60_001]));
        let everything = progress((0, u64::MAX), (0, u64::MAX));
        assert_eq!((everything.credit(&terms(&[])).up, everything.implausible()), (AMOUNT_MAX, [0, 0]));
    }

    #[test]
    fn totals_are_late_where_none_is_higher_and_the_last_ones_came_a_moment_ago() {
        let late = |seconds: UnixSeconds, uploaded, downloaded| {
            TotalsProgress { announced: (100, 100 + seconds), ..progress(uploaded, downloaded) }.is_late()
        };
        assert!(late(0, (7, 5), (11, 11)) && late(60, (7, 7), (11, 0)) && late(9, (7, 5), (11, 3)));
        assert!(!late(0, (7, 7), (11, 11)), "the same again is no news, and nothing to keep");
        assert!(!late(61, (7, 5), (11, 3)), "the client restarted");
        assert!(!late(0, (7, 0), (11, 12)) && !late(0, (7, 8), (11, 0)), "nor is it where one grew");
    }

    #[test]
    fn addresses_stand_as_the_spec_says() {
        let columns = |text: &str, hidden| ip_columns(text.parse().unwrap(), hidden);
        assert_eq!(columns("9.10.11.123", false), (151_653_243, None));
        let (ip, ip6) = columns("2001:db8::1", false);
        assert_eq!((ip, ip6.unwrap()[15]), (4_148_471_740, 1));
        assert_eq!(columns("2001:db8::1", true), (2_130_706_433, None));
    }
}
