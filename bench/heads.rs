//! The cost of request heads of the maximum size: CPU time of the serving thread, including the kernel's, for a
//! connection with one such request, less that for a small head. Run by `make bench-heads`.

#[path = "../tests/shared/mod.rs"]
mod shared;

use std::time::Duration;

use shared::heads::{Watched, costly, plain, small};

const ROUNDS: usize = 50;
/// The limit for every head.
const TARGET: Duration = Duration::from_millis(1);

fn main() {
    let program = Watched::start();
    let connection = program.cost(&small(), ROUNDS);
    println!("{:>7} µs for a connection with a small head; more than that, in µs:", connection.as_micros());
    let mut missed = 0;
    for head in std::iter::once(plain()).chain(costly()) {
        let cost = program.cost(&head, ROUNDS).saturating_sub(connection);
        let verdict = if cost > TARGET { "  EXCEEDS 1 ms" } else { "" };
        missed += usize::from(cost > TARGET);
        println!("{:>7}  {}{}{verdict}", cost.as_micros(), head.name, if head.is_trusted { " (trusted)" } else { "" });
    }
    println!("{missed} heads cost more than {TARGET:?}");
}
