//! Generates datagrams, valid and nearly valid ones.

use fastrand::Rng;

use super::model::MAGIC;

/// Generates datagrams from these parts.
pub(super) struct DatagramGenerator {
    pub(super) random: Rng,
    pub(super) info_hashes: Vec<[u8; 20]>,
    pub(super) peer_ids: Vec<[u8; 20]>,
    /// Options that may follow an announce.
    pub(super) options: Vec<Vec<u8>>,
    /// Totals of the last announce.
    pub(super) last_total: u64,
}

impl DatagramGenerator {
    /// Returns a datagram of a source with the connection id `id`; `foreign` is the id of another source.
    pub(super) fn datagram(&mut self, id: [u8; 8], foreign: [u8; 8]) -> Vec<u8> {
        let mut datagram = match self.random.u8(..10) {
            0 => [&MAGIC[..], &[0; 4], &self.random.u32(..).to_be_bytes()].concat(),
            1 | 2 => self.scrape(id),
            3 => self.announce(id, 4),
            _ => self.announce(id, 1),
        };
        if self.random.bool() {
            (0..=self.random.usize(..2)).for_each(|_| self.mutate(&mut datagram, foreign));
        }
        datagram
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.random.usize(..from.len())]
    }

    fn head(&mut self, id: [u8; 8], action: u32) -> Vec<u8> {
        let transaction_id = if self.random.u8(..50) == 0 { 0 } else { self.random.u32(..) };
        [&id[..], &action.to_be_bytes(), &transaction_id.to_be_bytes()].concat()
    }

    fn scrape(&mut self, id: [u8; 8]) -> Vec<u8> {
        let mut datagram = self.head(id, 2);
        let max = self.pick(&[1, 3, 76, 100, 200]);
        for _ in 0..self.random.usize(..=max) {
            datagram.extend(self.info_hash());
        }
        let tail = if self.random.u8(..4) == 0 { self.random.usize(..20) } else { 0 };
        datagram.extend((0..tail).map(|_| self.random.u8(..)));
        datagram
    }

    fn info_hash(&mut self) -> [u8; 20] {
        if self.random.u8(..40) == 0 {
            return std::array::from_fn(|_| self.random.u8(..));
        }
        // The first ones are large swarms.
        let count = self.info_hashes.len();
        let at = self.random.usize(..count).min(self.random.usize(..count));
        self.info_hashes[at]
    }

    fn announce(&mut self, id: [u8; 8], action: u32) -> Vec<u8> {
        let mut datagram = self.head(id, action);
        datagram.extend(self.info_hash());
        let peer_id = self.random.usize(..self.peer_ids.len());
        datagram.extend(self.peer_ids[peer_id]);
        datagram.extend(self.total().to_be_bytes());
        let left = self.pick(&[0, 0, 0, 1, 9, 1 << 32, 1 << 56, u64::MAX]);
        datagram.extend(left.to_be_bytes());
        datagram.extend(self.total().to_be_bytes());
        let event = self.pick(&[0, 0, 0, 0, 1, 1, 2, 2, 3, 4, 5, 0x0100_0003, u32::MAX]);
        datagram.extend(event.to_be_bytes());
        datagram.extend((0..if action == 4 { 16 } else { 4 }).map(|_| self.random.u8(..)));
        datagram.extend(self.random.u32(..).to_be_bytes());
        let small = self.random.i32(0..12);
        let num_want =
            self.pick(&[-1, i32::MIN, 0, 1, small, small, 50, 67, 68, 200, 201, 202, 203, i32::MAX]);
        datagram.extend(num_want.to_be_bytes());
        let usual = self.random.u16(2000..2080);
        let port =
            self.pick(&[usual, usual, usual, usual, usual, usual, usual, 0, 1, 2, 1023, 1024, u16::MAX]);
        datagram.extend(port.to_be_bytes());
        if !self.options.is_empty() {
            let options = self.random.usize(..self.options.len());
            datagram.extend(&self.options[options]);
        }
        datagram
    }

    /// Returns totals, which usually grow.
    fn total(&mut self) -> u64 {
        self.last_total += self.random.u64(1..1000);
        if self.random.u8(..8) == 0 { self.random.u64(..) >> self.random.u8(..64) } else { self.last_total }
    }

    fn mutate(&mut self, datagram: &mut Vec<u8>, foreign: [u8; 8]) {
        let len = datagram.len();
        let word = self.random.u32(..);
        match self.random.u8(..10) {
            0 => datagram.truncate(self.random.usize(..=len)),
            1 => datagram.truncate(self.pick(&[0, 15, 16, 35, 36, 97, 98, 99, 109, 110])),
            2 => datagram.extend((0..self.random.usize(1..40)).map(|_| self.random.u8(..4))),
            3 => datagram.extend((0..self.random.usize(1..1200)).map(|_| self.random.u8(..))),
            4 => {
                let action = self.pick(&[0, 1, 2, 3, 4, 5, 6, 255, 256, 1 << 24, word]);
                overwrite(datagram, 8, &action.to_be_bytes());
            }
            5 => {
                let id = self.pick(&[[0; 8], [255; 8], MAGIC, foreign]);
                overwrite(datagram, 0, &id);
            }
            6 => flip(datagram, self.random.usize(..64)),
            7 => overwrite(datagram, 80, &word.to_be_bytes()),
            8 if self.random.u8(..30) == 0 => datagram.resize(4000, 7),
            _ => flip(datagram, self.random.usize(..=8 * len)),
        }
    }
}

fn overwrite(datagram: &mut [u8], at: usize, octets: &[u8]) {
    datagram.iter_mut().skip(at).zip(octets).for_each(|(to, from)| *to = *from);
}

fn flip(datagram: &mut [u8], bit: usize) {
    datagram.iter_mut().skip(bit / 8).take(1).for_each(|octet| *octet ^= 1 << (bit % 8));
}
