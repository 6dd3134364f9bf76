//! What must not change a bit: threads, neighbours, memory.

use crate::case::*;
use rustloss::threads::with_num_threads;
use std::num::NonZero;

#[test]
fn thread_count_changes_no_bit() {
    let mut random = Random(8);
    for (counts, len) in [([1, 700, 30], 90), ([7, 60, 12], 9), ([3, 40, 1500], 6)] {
        let mut case = Case::random(&mut random, counts, len, 4.0);
        for length in &mut case.lengths[1..] {
            *length -= random.below(*length / 3);
        }
        let with = |threads| with_num_threads(NonZero::new(threads).unwrap(), || case.run());
        let alone = with(1);
        for threads in [2, 3, 8] {
            assert_eq!(with(threads), alone, "{threads} threads");
        }
    }
}

#[test]
fn samples_do_not_know_of_each_other() {
    let mut random = Random(9);
    let case = Case::random(&mut random, [5, 50, 20], 8, 3.0);
    let all = case.run();
    let size = 50 * 20;
    for n in 0..5 {
        let single = Case {
            frames: case.frames[n * size..(n + 1) * size].to_vec(),
            counts: [1, 50, 20],
            lengths: vec![50],
            labels: vec![case.labels[n].clone()],
            ..case.clone()
        };
        let single = single.run();
        assert_eq!(single.loss[0].to_bits(), all.loss[n].to_bits());
        assert_eq!(single.grad, all.grad[n * size..(n + 1) * size]);
    }
}

#[test]
fn memory_limit_changes_no_bit() {
    let mut random = Random(13);
    for scale in [2.0, 400.0] {
        let case = Case::random(&mut random, [2, 600, 12], 30, scale);
        let scales = [1.0, -0.5];
        let whole = case.run_as::<f64>(&scales, LIMIT).unwrap();
        let bytes = needed(case.run_as::<f64>(&scales, 1000));
        for limit in [bytes, 2 * bytes, 4 * bytes, 8 * bytes] {
            assert_eq!(case.run_as::<f64>(&scales, limit).unwrap(), whole, "limit {limit}");
        }
        assert_eq!(needed(case.run_as::<f64>(&scales, bytes - 1)), bytes);
    }
}
