//! No head costs much more than its size suggests: the most expensive ones take about as long as others of their size.

use crate::shared::heads::{Watched, costly, plain};

/// How many times as long as a plain head of the same size a head may take, in an unoptimised build. The worst one that
/// was ever found took a hundred times as long.
const FACTOR: u32 = 12;
const ROUNDS: usize = 5;

#[test]
fn no_head_costs_much_more_than_a_plain_one_of_its_size() {
    let program = Watched::start();
    let usual = program.cost(&plain(), 2 * ROUNDS);
    let costs = costly().into_iter().map(|head| (head.name, program.cost(&head, ROUNDS)));
    let excessive: Vec<_> = costs.filter(|(_, cost)| *cost > usual * FACTOR).collect();
    assert!(excessive.is_empty(), "a plain head takes {usual:?}, and these take: {excessive:?}");
}
