//! The connections of the admin port: which one is closed when all places are taken.

use std::{
    cmp::Reverse,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::task::AbortHandle;

/// Whether a connection's request is being answered; false before its head has arrived and after its response.
#[derive(Clone, Debug, Default)]
pub(super) struct Busy(Arc<AtomicBool>);

impl Busy {
    pub(super) fn set(&self, busy: bool) {
        self.0.store(busy, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// An open connection.
struct Occupant {
    address: IpAddr,
    busy: Busy,
    task: AbortHandle,
}

/// The open connections, oldest first, possibly with some that have ended.
pub(super) struct Seats {
    limit: usize,
    taken: Vec<Occupant>,
}

impl Seats {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), taken: Vec::new() }
    }

    /// Makes room for another connection. Returns the address of the one that was closed for it, if any.
    pub(super) fn make_room(&mut self) -> Option<IpAddr> {
        if self.taken.len() < self.limit {
            return None;
        }
        self.taken.retain(|occupant| !occupant.task.is_finished());
        if self.taken.len() < self.limit {
            return None;
        }
        let occupant = self.taken.remove(self.least_missed());
        occupant.task.abort();
        Some(occupant.address)
    }

    pub(super) fn take(&mut self, address: IpAddr, busy: Busy, task: AbortHandle) {
        self.taken.push(Occupant { address, busy, task });
    }

    /// The connection to close: one of the address with the most, idle rather than busy, the oldest of these. So
    /// neither a flood from one address nor inactive clients keep others out. While most connections are busy, with
    /// clients that do not read, idle ones are not preferred: new connections need time for their request.
    fn least_missed(&self) -> usize {
        let idle = self.taken.iter().filter(|occupant| !occupant.busy.get()).count();
        let idle_first = idle * 2 >= self.taken.len();
        let of = |address| self.taken.iter().filter(|other| other.address == address).count();
        let rank = |index: &usize| {
            let Occupant { address, busy, .. } = &self.taken[*index];
            (of(*address), idle_first && !busy.get(), Reverse(*index))
        };
        (0..self.taken.len()).max_by_key(rank).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    struct Room {
        seats: Seats,
        tasks: Vec<tokio::task::JoinHandle<()>>,
    }

    impl Room {
        fn new(limit: usize) -> Self {
            Self { seats: Seats::new(limit), tasks: Vec::new() }
        }

        /// A connection that never ends by itself; returns the address of the one closed for it.
        fn enter(&mut self, last: u8, is_busy: bool) -> Option<IpAddr> {
            let closed = self.seats.make_room();
            let (task, busy) = (tokio::spawn(std::future::pending()), Busy::default());
            busy.set(is_busy);
            self.seats.take(address(last), busy, task.abort_handle());
            self.tasks.push(task);
            closed
        }

        /// Waits until the connection with this number has ended.
        async fn ended(&mut self, index: usize) -> bool {
            (&mut self.tasks[index]).await.is_err_and(|error| error.is_cancelled())
        }
    }

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, last).into()
    }

    #[tokio::test]
    async fn the_oldest_connection_without_a_request_makes_room() {
        let mut room = Room::new(3);
        for is_busy in [true, false, false] {
            assert_eq!(room.enter(1, is_busy), None);
        }
        assert_eq!(room.enter(1, true), Some(address(1)));
        assert!(room.ended(1).await);
        room.enter(1, false);
        assert!(room.ended(0).await, "when most are busy, the oldest of all");
    }

    #[tokio::test]
    async fn the_address_with_most_connections_makes_room_for_others() {
        let mut room = Room::new(4);
        room.enter(7, false);
        for _ in 0..3 {
            room.enter(1, true);
        }
        assert_eq!(room.enter(8, false), Some(address(1)), "an idle connection of another address stays");
        assert!(room.ended(1).await);
    }

    #[tokio::test]
    async fn connections_that_have_ended_make_room_first() {
        let mut room = Room::new(2);
        room.enter(1, false);
        room.enter(1, false);
        room.tasks[1].abort();
        assert!(room.ended(1).await);
        assert_eq!(room.enter(2, false), None);
    }
}
