//! How much work a tunnel may do before it yields its thread. Pure: it counts work, not time.

use crate::proxy::transport::stream::READ;

/// The work of one turn of one direction, in bytes: that of a full read.
const TURN: usize = READ;
/// The weight of a frame header, in bytes. Finding the end of a frame costs as much as forwarding this many bytes.
const FRAME: usize = 64;
/// The weight of a TLS record beyond its payload, in bytes: key, nonce and tag are set up for each.
const RECORD: usize = 512;
/// The minimum number of bytes read at once, however many frames they may contain.
const LEAST_READ: usize = 2 * 1024;

/// The work of one read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effort {
    pub bytes: usize,
    /// The number of frames that began in it.
    pub frames: usize,
    /// The number of TLS records in it.
    pub records: usize,
}

impl Effort {
    /// The number of bytes that would be as much work.
    fn weight(self) -> usize {
        self.bytes + self.frames * FRAME + self.records * RECORD
    }
}

/// How much is read from a side at once, so that one read is about one turn's work: 64 KiB for large frames, 2 KiB for
/// tiny ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach(usize);

impl Default for Reach {
    fn default() -> Self {
        Self(READ)
    }
}

impl Reach {
    /// The number of bytes to read at once.
    pub(super) fn bytes(self) -> usize {
        self.0
    }

    /// Learns from a read: after more than twice a turn's work, reads become smaller; after less than half a turn's,
    /// they become larger again.
    fn learn(&mut self, work: Effort) {
        let reach = match work.weight() {
            weight if weight > 2 * TURN => work.bytes * TURN / weight,
            weight if 2 * weight <= TURN && 2 * work.bytes >= self.bytes() => 2 * self.bytes(),
            _ => return,
        };
        self.0 = reach.clamp(LEAST_READ, READ);
    }
}

/// One turn of one direction.
#[derive(Debug)]
pub(super) struct Turn {
    left: usize,
}

impl Turn {
    pub(super) fn new() -> Self {
        Self { left: TURN }
    }

    /// Whether the tunnel must yield to others on the thread.
    pub(super) fn is_over(&self) -> bool {
        self.left == 0
    }

    /// Counts work.
    pub(super) fn spend(&mut self, work: Effort, reach: &mut Reach) {
        self.left = self.left.saturating_sub(work.weight());
        reach.learn(work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads from a flood of equal frames until a turn is over; returns the total work. A read takes what `reach`
    /// allows.
    fn turn(reach: &mut Reach, frame: usize, record: Option<usize>) -> Effort {
        let (mut turn, mut all) = (Turn::new(), Effort::default());
        while !turn.is_over() {
            let bytes = reach.bytes();
            let work = Effort { bytes, frames: bytes / frame, records: record.map_or(0, |record| bytes / record) };
            turn.spend(work, reach);
            all = Effort {
                bytes: all.bytes + work.bytes,
                frames: all.frames + work.frames,
                records: all.records + work.records,
            };
        }
        all
    }

    #[test]
    fn a_turn_is_one_full_read_of_large_frames() {
        let mut reach = Reach::default();
        for _ in 0..3 {
            assert_eq!(turn(&mut reach, 1 << 20, None), Effort { bytes: READ, frames: 0, records: 0 });
        }
        assert_eq!(turn(&mut reach, 1 << 20, Some(1 << 14)).bytes, READ, "the same over TLS");
    }

    #[test]
    fn tiny_frames_weigh_as_much_as_many_bytes() {
        for (frame, record) in [(2, None), (6, None), (2, Some(1 << 14)), (6, Some(28)), (1 << 20, Some(23))] {
            let mut reach = Reach::default();
            let first = turn(&mut reach, frame, record);
            assert_eq!(first.bytes, READ, "one read is not cut short");
            for _ in 0..100 {
                let work = turn(&mut reach, frame, record);
                assert!(work.weight() <= 3 * TURN, "{work:?} of {frame} in {record:?}");
                assert!(work.frames <= 2 * TURN / FRAME, "{work:?} of {frame} in {record:?}");
            }
        }
    }

    #[test]
    fn many_small_reads_make_a_turn_as_well() {
        let (mut turn, mut reach, mut reads) = (Turn::new(), Reach::default(), 0);
        while !turn.is_over() {
            turn.spend(Effort { bytes: 6, frames: 1, records: 1 }, &mut reach);
            reads += 1;
        }
        assert_eq!(reads, TURN.div_ceil(6 + FRAME + RECORD));
        assert_eq!(reach.bytes(), READ, "they were short of themselves");
    }

    #[test]
    fn a_flood_that_ends_is_forgotten() {
        let mut reach = Reach::default();
        turn(&mut reach, 2, None);
        assert_eq!(reach.bytes(), LEAST_READ);
        turn(&mut reach, 1 << 20, None);
        assert_eq!(reach.bytes(), READ);
    }
}
