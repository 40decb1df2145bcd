// SPDX-License-Identifier: GPL-2.0

//! How much the pool must grow before a request for memory fits.
//!
//! Arithmetic only. An estimate: the kernel decides what it takes from where.

use crate::layout::{subtract, Range, FOUR_GIB};
use crate::spec::{MemoryRequest, Side};

/// A free piece of the pool.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Free {
    /// The memory.
    pub range: Range,
    /// Its NUMA node, -1 if none.
    pub node: i32,
}

/// Returns those of `requests` that the free memory does not hold: what the pool must grow by.
///
/// A request for a given address never makes the pool grow, as growing cannot aim.
pub fn missing(free: &[Free], requests: &[MemoryRequest]) -> Vec<MemoryRequest> {
    let mut free = joined(free);
    let mut missing = Vec::new();
    for request in requests {
        match free.iter().find_map(|free| fit(free, request)) {
            Some(taken) => {
                free = free
                    .iter()
                    .flat_map(|free| {
                        let node = free.node;
                        subtract(&[free.range], taken)
                            .into_iter()
                            .map(move |range| Free { range, node })
                    })
                    .collect();
            }
            None if request.base.is_some() => {}
            None => missing.push(*request),
        }
    }
    missing
}

/// Neighbours on one node are one piece to the kernel.
fn joined(free: &[Free]) -> Vec<Free> {
    let mut free = free.to_vec();
    free.sort_unstable_by_key(|free| free.range);
    free.dedup_by(|next, piece| {
        let join = piece.range.end() == next.range.base && piece.node == next.node;
        if join {
            piece.range.size += next.range.size;
        }
        join
    });
    free
}

fn fit(free: &Free, request: &MemoryRequest) -> Option<Range> {
    if request.node.is_some_and(|node| node != free.node) {
        return None;
    }
    let (first, limit) = match request.side {
        Side::Any => (0, u64::MAX),
        Side::Below4G => (0, FOUR_GIB),
        Side::Above4G => (FOUR_GIB, u64::MAX),
    };
    let base = request.base.unwrap_or(free.range.base.max(first));
    let wanted = Range::new(base, request.bytes);
    (base >= first && wanted.end() <= limit && free.range.contains(&wanted)).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn free(base: u64, size: u64, node: i32) -> Free {
        Free {
            range: Range::new(base, size),
            node,
        }
    }

    fn requests(texts: &[&str]) -> Vec<MemoryRequest> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn enough() {
        let pool = [free(64 * MIB, 64 * MIB, 0), free(128 * MIB, 64 * MIB, 0)];
        assert_eq!(missing(&pool, &requests(&["128M"])), []);
        assert_eq!(missing(&pool, &requests(&["64M", "64M"])), []);
        assert_eq!(missing(&pool, &requests(&["2M,base=0x5000000"])), []);
    }

    #[test]
    fn what_is_missing() {
        let pool = [free(64 * MIB, 64 * MIB, 0), free(128 * MIB, 64 * MIB, 1)];
        // Different nodes are not one piece.
        assert_eq!(missing(&pool, &requests(&["128M"])), requests(&["128M"]));
        let asked = requests(&["64M,node=1", "2M,node=1", "2M,above-4g", "64M,below-4g"]);
        assert_eq!(missing(&pool, &asked), asked[1..3]);
        assert_eq!(missing(&[], &requests(&["2M,base=0x5000000"])), []);
    }

    #[test]
    fn a_piece_across_4g_counts_for_both_sides() {
        let pool = [free(FOUR_GIB - 64 * MIB, 128 * MIB, -1)];
        assert_eq!(
            missing(&pool, &requests(&["64M,above-4g", "64M,below-4g"])),
            []
        );
    }
}
