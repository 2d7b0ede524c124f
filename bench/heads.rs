//! What request heads of the maximum size cost: CPU time of the serving thread for a whole connection with one request,
//! with all that the kernel does for it. Run by `make bench-heads`.

#[path = "../tests/shared/mod.rs"]
mod shared;

use std::time::Duration;

use shared::heads::{Watched, costly, plain};

const ROUNDS: usize = 50;
/// What no head may take.
const TARGET: Duration = Duration::from_millis(1);

fn main() {
    let program = Watched::start();
    println!("{:>7} µs  of CPU time", "");
    let mut missed = 0;
    for head in std::iter::once(plain()).chain(costly()) {
        let cost = program.cost(&head, ROUNDS);
        let verdict = if cost > TARGET { "  EXCEEDS 1 ms" } else { "" };
        missed += usize::from(cost > TARGET);
        println!(
            "{:>7} µs  {}{}{verdict}",
            cost.as_micros(),
            head.name,
            if head.is_trusted { " (trusted)" } else { "" }
        );
    }
    println!("{missed} heads take more than {TARGET:?}");
}
