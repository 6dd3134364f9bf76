//! The promises of `threads::run`.

use crate::error::{Error, Result};
use crate::threads::{
    self, Entrance, Job, Tasks, Work, check, interruptible, max_num_threads, num_threads,
    set_num_threads, with_num_threads,
};
use std::collections::HashSet;
use std::num::NonZero;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// Runs a test in a process of its own, where no other test keeps the workers busy or the process from standing still
/// for a fork. One such process at a time.
#[track_caller]
fn alone(test: impl FnOnce()) {
    static TURN: Mutex<()> = Mutex::new(());
    const ALONE: &str = "RUSTLOSS_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return test();
    }
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let own = thread::current();
    let name = own.name().expect("the harness names its threads after tests");
    let mut process = Command::new(std::env::current_exe().unwrap());
    let output = process.args(["--exact", name]).env(ALONE, "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn count(n: usize) -> NonZero<usize> {
    NonZero::new(n).unwrap()
}

/// Calls `work` for every task.
fn run(tasks: usize, ns: f64, work: &(dyn Fn(usize) + Sync)) {
    let all = |tasks: &mut Tasks<'_>| {
        tasks.for_each(work);
        Ok(())
    };
    threads::run(tasks, ns, &all).unwrap();
}

/// A task that is worth a thread's while, one of those that are worth it if the thread is awake, and one that is not.
const LARGE: f64 = 1e6;
const MEDIUM: f64 = 5e3;
const SMALL: f64 = 1e2;

/// How often each task ran.
fn runs(tasks: usize, ns: f64) -> Vec<usize> {
    let counts: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
    run(tasks, ns, &|task| {
        counts[task].fetch_add(1, Ordering::Relaxed);
    });
    counts.into_iter().map(AtomicUsize::into_inner).collect()
}

/// The threads that took part in `tasks` tasks of a millisecond.
fn threads(tasks: usize, ns: f64) -> HashSet<ThreadId> {
    let seen = Mutex::new(HashSet::new());
    run(tasks, ns, &|_| {
        thread::sleep(Duration::from_millis(1));
        seen.lock().unwrap().insert(thread::current().id());
    });
    seen.into_inner().unwrap()
}

#[test]
fn every_task_runs_once() {
    alone(|| {
        for n in [1, 2, 3, 8] {
            with_num_threads(count(n), || {
                for tasks in [0, 1, 2, 3, 7, 100, 10_000] {
                    for ns in [SMALL, MEDIUM, LARGE] {
                        assert_eq!(runs(tasks, ns), vec![1; tasks], "{n} threads, {ns} ns");
                    }
                }
            });
        }
    });
}

#[test]
fn short_jobs_in_a_row_lose_no_task() {
    alone(|| {
        with_num_threads(count(3), || {
            for round in 0..20_000 {
                assert_eq!(runs(3, MEDIUM), [1; 3], "round {round}");
            }
        });
    });
}

#[test]
fn threads_are_used_and_limited() {
    alone(|| {
        let caller = HashSet::from([thread::current().id()]);
        for n in [2, 3, 8] {
            with_num_threads(count(n), || {
                let seen = threads(64, LARGE);
                assert!(seen.len() > 1 && seen.len() <= n, "{} of {n} threads", seen.len());
                assert!(seen.is_superset(&caller));
                assert_eq!(threads(3, SMALL), caller);
                assert_eq!(threads(1, LARGE), caller);
                assert!(threads(2, LARGE).len() <= 2);
            });
        }
        assert_eq!(with_num_threads(count(1), || threads(8, LARGE)), caller);
    });
}

#[test]
fn medium_work_wakes_nobody_unless_it_comes_again_soon() {
    alone(|| {
        with_num_threads(count(2), || {
            threads(2, LARGE);
            thread::sleep(Duration::from_millis(50));
            assert_eq!(threads(2, MEDIUM).len(), 1);
            let soon = || {
                runs(2, MEDIUM);
                threads(2, MEDIUM).len() == 2
            };
            // A busy system may keep this thread from calling soon enough.
            assert!((0..100).any(|_| soon()));
        });
    });
}

#[test]
fn a_run_inside_a_task_stays_on_its_thread() {
    alone(|| {
        let sum = AtomicUsize::new(0);
        with_num_threads(count(3), || {
            run(8, LARGE, &|_| {
                let own = HashSet::from([thread::current().id()]);
                assert_eq!(threads(4, LARGE), own);
                run(10, LARGE, &|task| {
                    sum.fetch_add(task, Ordering::Relaxed);
                });
            });
        });
        assert_eq!(sum.into_inner(), 8 * 45);
    });
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    alone(|| {
        for (n, ns) in [(1, LARGE), (2, SMALL), (2, LARGE), (8, LARGE)] {
            with_num_threads(count(n), || {
                for guilty in [0, 1, 63] {
                    let inside = AtomicUsize::new(0);
                    let work = |task: usize| {
                        inside.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(Duration::from_micros(50));
                        inside.fetch_sub(1, Ordering::Relaxed);
                        assert!(task != guilty, "task {task} is guilty");
                    };
                    let payload =
                        catch_unwind(AssertUnwindSafe(|| run(64, ns, &work))).unwrap_err();
                    assert_eq!(inside.into_inner(), 0, "someone was still at work");
                    let text = payload.downcast_ref::<String>().unwrap();
                    assert_eq!(*text, format!("task {guilty} is guilty"));
                    assert_eq!(runs(64, ns), [1; 64]);
                }
            });
        }
        assert!(with_num_threads(count(2), || threads(64, LARGE)).len() > 1);
    });
}

#[test]
fn a_panic_ends_the_job() {
    alone(|| {
        let done = AtomicUsize::new(0);
        let work = |task: usize| {
            assert!(task > 0);
            thread::sleep(Duration::from_millis(1));
            done.fetch_add(1, Ordering::Relaxed);
        };
        let job = || with_num_threads(count(2), || run(1000, LARGE, &work));
        let outcome = catch_unwind(AssertUnwindSafe(job));
        assert!(outcome.is_err());
        assert!(done.into_inner() < 999);
    });
}

#[test]
fn callers_on_several_threads_do_not_disturb_each_other() {
    alone(|| {
        thread::scope(|scope| {
            for caller in 0..6 {
                scope.spawn(move || {
                    with_num_threads(count(2 + caller % 3), || {
                        for tasks in (1..200).chain(1..200) {
                            assert_eq!(runs(tasks, LARGE), vec![1; tasks]);
                        }
                    });
                });
            }
        });
    });
}

#[test]
fn nobody_waits_for_a_worker_that_is_busy_elsewhere() {
    alone(|| {
        let started = AtomicUsize::new(0);
        thread::scope(|scope| {
            let busy = scope.spawn(|| {
                with_num_threads(count(2), || {
                    run(2, LARGE, &|_| {
                        started.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(Duration::from_secs(1));
                    });
                });
            });
            while started.load(Ordering::Relaxed) == 0 {
                thread::yield_now();
            }
            assert_eq!(with_num_threads(count(2), || runs(100, LARGE)), [1; 100]);
            assert!(!busy.is_finished());
        });
    });
}

#[test]
fn thread_count_of_the_thread_comes_before_that_of_the_process() {
    alone(|| {
        let before = num_threads();
        set_num_threads(count(5));
        assert_eq!(num_threads(), 5);
        with_num_threads(count(2), || {
            assert_eq!(num_threads(), 2);
            with_num_threads(count(7), || assert_eq!(num_threads(), 7));
            assert_eq!(num_threads(), 2);
            assert_eq!(thread::spawn(num_threads).join().unwrap(), 5);
            assert!(catch_unwind(|| with_num_threads(count(4), || panic!("leaves"))).is_err());
            assert_eq!(num_threads(), 2);
        });
        assert_eq!(num_threads(), 5);
        set_num_threads(count(before));
    });
}

#[test]
fn thread_counts_are_capped() {
    alone(|| {
        let (before, most) = (num_threads(), max_num_threads());
        assert!(most >= 64 && most >= 4 * thread::available_parallelism().unwrap().get());
        set_num_threads(count(usize::MAX));
        assert_eq!(num_threads(), most);
        assert_eq!(with_num_threads(count(most + 1), num_threads), most);
        assert_eq!(with_num_threads(count(most), || runs(1000, LARGE)), [1; 1000]);
        set_num_threads(count(before));
    });
}

/// How late a call may end that is told to stop: half of what users are promised, for busy systems.
const LATEST: Duration = Duration::from_millis(100);

/// When [`poll`] says that the call is to stop.
static DEADLINE: Mutex<Option<Instant>> = Mutex::new(None);
static POLLS: AtomicUsize = AtomicUsize::new(0);

fn poll() -> bool {
    POLLS.fetch_add(1, Ordering::Relaxed);
    DEADLINE.lock().unwrap().is_some_and(|deadline| Instant::now() >= deadline)
}

/// Runs `work` as a call that is told to stop after a while. Returns its result and how late it came.
fn stopped(work: impl FnOnce() -> Result<()>) -> (Result<()>, Duration) {
    let deadline = Instant::now() + Duration::from_millis(120);
    *DEADLINE.lock().unwrap() = Some(deadline);
    let result = interruptible(poll, work);
    (result, deadline.elapsed())
}

/// Tasks of `length`, far more than there is time for.
fn endless(ns: f64, length: Duration) -> Result<()> {
    threads::run(1_000_000, ns, &|tasks| {
        tasks.for_each(|_| thread::sleep(length));
        Ok(())
    })
}

#[test]
fn a_call_ends_soon_after_it_is_told_to() {
    alone(|| {
        for n in [1, 2, 8] {
            for ns in [SMALL, LARGE] {
                with_num_threads(count(n), || {
                    let (result, late) = stopped(|| endless(ns, Duration::from_micros(100)));
                    assert_eq!(result, Err(Error::interrupted()), "{n} threads, {ns} ns");
                    assert!(late < LATEST, "{late:?} late with {n} threads, {ns} ns");
                    // The next call is like any other.
                    assert_eq!(runs(100, ns), [1; 100]);
                    assert_eq!(interruptible(|| false, || runs(100, ns)), [1; 100]);
                });
            }
        }
    });
}

#[test]
fn runs_inside_tasks_end_too() {
    alone(|| {
        with_num_threads(count(3), || {
            let inner = |tasks: &mut Tasks<'_>| {
                tasks.try_for_each(|_| endless(LARGE, Duration::from_micros(100)))
            };
            let (result, late) = stopped(|| threads::run(3, LARGE, &inner));
            assert_eq!(result, Err(Error::interrupted()));
            assert!(late < LATEST, "{late:?} late");
        });
    });
}

#[test]
fn a_caller_that_waits_for_a_worker_polls() {
    alone(|| {
        let caller = thread::current().id();
        let ended = AtomicUsize::new(0);
        // The worker works until the call is told to stop, which the caller learns while it waits.
        let work = |tasks: &mut Tasks<'_>| {
            for _ in tasks {
                let polls = POLLS.load(Ordering::Relaxed);
                if thread::current().id() == caller {
                    thread::sleep(Duration::from_millis(1));
                } else {
                    while POLLS.load(Ordering::Relaxed) < polls + 3 {
                        thread::sleep(Duration::from_millis(1));
                    }
                    ended.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(())
        };
        with_num_threads(count(2), || {
            // A busy system may let the caller do all the tasks.
            while ended.load(Ordering::Relaxed) == 0 {
                *DEADLINE.lock().unwrap() = None;
                assert_eq!(interruptible(poll, || threads::run(8, LARGE, &work)), Ok(()));
            }
        });
    });
}

#[test]
fn one_call_ends_and_the_calls_of_other_threads_go_on() {
    alone(|| {
        thread::scope(|scope| {
            let other = scope.spawn(|| {
                with_num_threads(count(2), || {
                    interruptible(|| false, || (0..40).map(|_| threads(20, LARGE).len()).max())
                })
            });
            let (result, late) = with_num_threads(count(2), || {
                stopped(|| endless(LARGE, Duration::from_micros(100)))
            });
            assert_eq!(result, Err(Error::interrupted()));
            assert!(late < LATEST, "{late:?} late");
            assert!(!other.is_finished());
            assert!(other.join().unwrap().is_some());
        });
    });
}

#[test]
fn a_call_that_is_to_stop_polls_no_more() {
    alone(|| {
        static TIMES: AtomicUsize = AtomicUsize::new(0);
        let poll = || TIMES.fetch_add(1, Ordering::Relaxed) == 0;
        for n in [1, 2] {
            TIMES.store(0, Ordering::Relaxed);
            let job = || threads::run(8, LARGE, &|_| Ok(()));
            with_num_threads(count(n), || {
                interruptible(poll, || {
                    let stopped = || endless(LARGE, Duration::from_micros(100));
                    assert_eq!(stopped(), Err(Error::interrupted()));
                    thread::sleep(LATEST);
                    assert_eq!(stopped(), Err(Error::interrupted()));
                    assert_eq!(job(), Err(Error::interrupted()));
                });
                assert_eq!(job(), Ok(()));
            });
            assert_eq!(TIMES.load(Ordering::Relaxed), 1);
        }
    });
}

#[test]
fn a_poll_may_make_calls_and_panic() {
    alone(|| {
        with_num_threads(count(2), || {
            let calls = || {
                assert_eq!(runs(100, LARGE), [1; 100]);
                assert_eq!(interruptible(|| false, || runs(100, LARGE)), [1; 100]);
                poll()
            };
            *DEADLINE.lock().unwrap() = Some(Instant::now() + Duration::from_millis(120));
            let result = interruptible(calls, || endless(LARGE, Duration::from_micros(100)));
            assert_eq!(result, Err(Error::interrupted()));
            let result = interruptible(
                || panic!("in a poll"),
                || endless(LARGE, Duration::from_micros(100)),
            );
            assert_eq!(result, Err(Error::interrupted()));
        });
    });
}

/// Runs `child` in a forked child, which must end well within five seconds.
#[cfg(unix)]
fn fork(child: impl FnOnce() -> bool) {
    // SAFETY: the child calls nothing but code that is meant to work there, and leaves without unwinding.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        let good = catch_unwind(AssertUnwindSafe(child)).unwrap_or(false);
        // SAFETY: ends the process at once.
        unsafe { libc::_exit(i32::from(!good)) }
    }
    let mut status = -1;
    let deadline = Instant::now() + Duration::from_secs(5);
    // SAFETY: `status` is a valid place to write to.
    while unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } == 0 {
        if Instant::now() > deadline {
            // SAFETY: ends the child that was made above.
            unsafe { libc::kill(pid, libc::SIGKILL) };
            panic!("the child hangs");
        }
        thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(status, 0, "the child failed");
}

#[test]
#[cfg(unix)]
fn a_forked_child_has_threads_of_its_own() {
    alone(|| {
        with_num_threads(count(3), || {
            assert!(threads(64, LARGE).len() > 1);
            for _ in 0..20 {
                fork(|| runs(1000, LARGE) == [1; 1000] && threads(64, LARGE).len() > 1);
            }
            // And the child's child, after either has used its pool or not.
            fork(|| {
                fork(|| threads(64, LARGE).len() > 1);
                let used = threads(64, LARGE).len() > 1;
                fork(|| threads(64, LARGE).len() > 1);
                used
            });
            assert!(threads(64, LARGE).len() > 1);
        });
    });
}

#[test]
#[cfg(unix)]
fn fork_while_other_threads_are_inside_a_job() {
    alone(|| {
        let stop = AtomicUsize::new(0);
        thread::scope(|scope| {
            for n in 2..4 {
                let stop = &stop;
                scope.spawn(move || {
                    with_num_threads(count(n), || {
                        while stop.load(Ordering::Relaxed) == 0 {
                            runs(50, LARGE);
                        }
                    });
                });
            }
            let children = || {
                for _ in 0..20 {
                    fork(|| {
                        with_num_threads(count(3), || {
                            runs(1000, LARGE) == [1; 1000] && threads(64, LARGE).len() > 1
                        })
                    });
                }
            };
            let outcome = catch_unwind(AssertUnwindSafe(children));
            stop.store(1, Ordering::Relaxed);
            assert!(outcome.is_ok());
        });
    });
}

#[test]
fn a_worker_that_comes_too_late_leaves_at_once() {
    let work: &Work<'_> = &|_: &mut Tasks<'_>| panic!("the job is over");
    let job = Job::new(2, 1, &work);
    drop(Entrance { job: &job, patience: Duration::ZERO });
    job.help();
    assert_eq!(job.inside.into_inner(), Job::CLOSED);
    assert!(job.panic.into_inner().unwrap().is_none());
}

#[test]
fn a_job_of_a_call_that_is_to_stop_ends_for_workers_too() {
    let work: &Work<'_> = &|tasks: &mut Tasks<'_>| {
        assert_eq!(tasks.next(), None);
        Ok(())
    };
    interruptible(
        || true,
        || {
            let job = Job::new(2, 1, &work);
            assert_eq!(check(), Err(Error::interrupted()));
            job.help();
            assert!(job.panic.into_inner().unwrap().is_none());
            assert_eq!(threads::run(2, 0.0, work), Err(Error::interrupted()));
        },
    );
    assert_eq!(check(), Ok(()));
}
