// SPDX-License-Identifier: BSD-2-Clause
//! Many small things at once, on all processors.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::thread;

/// The largest number of threads. More of them only wait for the same file system.
const MAX_THREADS: usize = 8;

/// Fewer items than this are not worth a thread.
const MIN_PART: usize = 256;

/// Calls `look` for each of `items`. Returns the results in the order of the items.
pub(crate) fn map<E: Sync, T: Send>(items: &[E], look: impl Fn(&E) -> T + Sync) -> Vec<T> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
    let part = items.len().div_ceil(threads).max(MIN_PART);
    if items.len() <= part {
        return items.iter().map(look).collect();
    }
    let look = &look;
    thread::scope(|scope| {
        let running: Vec<_> =
            items.chunks(part).map(|part| scope.spawn(move || part.iter().map(look).collect::<Vec<_>>())).collect();
        running.into_iter().flat_map(|part| part.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::map;

    #[test]
    fn results_stand_in_the_order_of_the_items() {
        for count in [0, 1, 255, 256, 257, 10_000] {
            let items: Vec<usize> = (0..count).collect();
            let expected: Vec<usize> = (0..count).map(|item| item * 2).collect();
            assert_eq!(map(&items, |item| item * 2), expected);
        }
    }
}
