//! How long a tunnel may keep its thread. Pure: it counts work, never time.

use crate::proxy::transport::stream::READ;

/// The work of one turn of one direction, in bytes: that of a full read.
const TURN: usize = READ;
/// What the header of a frame weighs, in bytes. To find where a frame ends costs as much as to pass this much on.
const FRAME: usize = 64;
/// What a TLS record weighs beyond its payload, in bytes: keys, nonce and tag are set up for each.
const RECORD: usize = 512;
/// The least that is read at once, however many frames it may hold.
const LEAST_READ: usize = 2 * 1024;

/// What one read brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Effort {
    pub bytes: usize,
    /// Frames that began in it.
    pub frames: usize,
    /// TLS records that it came in.
    pub records: usize,
}

impl Effort {
    /// The bytes that would be as much work.
    fn weight(self) -> usize {
        self.bytes + self.frames * FRAME + self.records * RECORD
    }
}

/// How much is read at once from a side, so that one read is about one turn's work. Large frames are read 64 KiB at
/// once, tiny ones 2 KiB.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach(usize);

impl Default for Reach {
    fn default() -> Self {
        Self(READ)
    }
}

impl Reach {
    /// What to read at once now, in bytes.
    pub(super) fn bytes(self) -> usize {
        self.0
    }

    /// Learns from a read: what was twice a turn's work is read in smaller parts from now on, and what was less than half a turn in
    /// larger ones again.
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

    /// Whether others of the thread come first now.
    pub(super) fn is_over(&self) -> bool {
        self.left == 0
    }

    /// Counts what was done.
    pub(super) fn spend(&mut self, work: Effort, reach: &mut Reach) {
        self.left = self.left.saturating_sub(work.weight());
        reach.learn(work);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads of a flood of equal frames until a turn is over, and what it came to in all. A read takes what `reach`
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
