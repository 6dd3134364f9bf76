//! Threads: the one place that runs work in parallel.
//!
//! [`run`] splits work into tasks that its caller numbers; nothing about a task depends on who runs it or on how
//! many threads there are, so that results, kept in slots by index, have the same bits for any thread count.
//!
//! The pool is private, made at the first parallel call and kept for one process only. A forked child inherits the
//! memory of its parent's pool but none of its threads: waiting for them would hang. A handler run by `fork`
//! therefore raises a generation number, and the child builds a pool of its own and leaks the inherited one, whose
//! locks a thread that no longer exists may be holding.

mod count;
mod pool;

pub use count::{environment_warnings, num_threads, set_num_threads, with_num_threads};

#[cfg(feature = "python")]
pub(crate) use count::exchange_local_threads;

use crate::error::{Error, Result};
use pool::{Pool, Process, watch_forks};
use std::any::Any;
use std::cell::Cell;
use std::hint;
use std::mem;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};

thread_local! {
    static INSIDE_TASK: Cell<bool> = const { Cell::new(false) };
}

/// Work that pays to share with workers that are awake, and work that pays to wake one for, in nanoseconds.
const SHARED_NS: f64 = 4_096.0;
const WAKING_NS: f64 = 20_000.0;

/// What a thread takes at a time, in nanoseconds, unless its share is less: neighbouring tasks stay in the cache of one CPU.
const GRIP_NS: f64 = 8_192.0;

/// The tasks that fall to one thread: some at a time, while others take theirs.
pub struct Tasks<'a> {
    /// The lowest task not yet taken.
    next: &'a AtomicUsize,
    count: usize,
    grip: usize,
    taken: Range<usize>,
}

impl Iterator for Tasks<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.taken.is_empty() {
            let start = self.next.fetch_add(self.grip, Ordering::Relaxed).min(self.count);
            self.taken = start..(start + self.grip).min(self.count);
        }
        self.taken.next()
    }
}

/// What a thread does with its tasks; it gives up at the first that fails.
pub type Work<'a> = dyn Fn(&mut Tasks<'_>) -> Result<()> + Sync + 'a;

/// Calls `work` on as many threads as are of use, and returns when all tasks, 0 to `tasks` - 1, were given out once each
/// and every thread is done with its own. A task takes about `ns` nanoseconds.
///
/// Tasks are given out in order, so that of several tasks that fail the lowest is run, and its error returned, for any
/// number of threads.
///
/// The caller takes part, and as many idle workers of the pool as there are tasks for and as [`num_threads`] allows.
/// The caller gets all tasks, in order, if there is nothing to share: little work, one task, one thread, no idle
/// worker, or a call from inside `work` that is itself shared.
///
/// # Panics
/// If `work` panics: with the payload of the first one, once nobody is inside any more. Tasks not yet taken at that
/// moment never run.
pub fn run(tasks: usize, ns: f64, work: &Work<'_>) -> Result<()> {
    let total = ns * tasks as f64;
    if total >= SHARED_NS
        && tasks > 1
        && !INSIDE_TASK.get()
        && let Some((pool, crew)) = hire(tasks.min(num_threads()) - 1, total < WAKING_NS)
    {
        let grip = ((GRIP_NS / ns) as usize).clamp(1, tasks.div_ceil(crew + 1));
        share(&pool, crew, (tasks, grip), work)
    } else {
        let next = AtomicUsize::new(tasks);
        work(&mut Tasks { next: &next, count: tasks, grip: 1, taken: 0..tasks })
    }
}

/// Whether the call that this thread works for was told to stop. Loops that run for long within one task ask now and then.
pub(crate) fn check() -> Result<()> {
    Ok(())
}

/// Takes at most `wanted` workers of the pool out of its idle ones, for one call to [`share`]. None for a small job that
/// somebody would have to wake up for.
fn hire(wanted: usize, small: bool) -> Option<(Arc<Pool>, usize)> {
    if wanted == 0 || !watch_forks() {
        return None;
    }
    let pool = Process::current().pool(wanted)?;
    if !pool.board.is_watched() && small {
        return None;
    }
    let mut crew = 0;
    let take = |idle: usize| {
        crew = wanted.min(idle);
        Some(idle - crew)
    };
    pool.idle.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok();
    (crew > 0).then_some((pool, crew))
}

/// Runs all tasks on the caller and on `crew` workers hired from `pool`.
fn share(pool: &Pool, crew: usize, (tasks, grip): (usize, usize), work: &Work<'_>) -> Result<()> {
    // SAFETY: only the lifetime changes. `work` is called by those alone who are inside the job; dropping its
    // `Entrance`, before this function returns or unwinds, lets no one in any more and waits until all are out.
    let work = unsafe { mem::transmute::<&Work<'_>, &'static Work<'static>>(work) };
    let job = Arc::new(Job {
        work,
        tasks,
        grip,
        // The first tasks are the caller's, in every call, and so their arrays stay in its CPU's cache.
        next: AtomicUsize::new(grip),
        inside: AtomicUsize::new(0),
        panic: Mutex::new(None),
        failure: Mutex::new(None),
        caller: thread::current(),
    });
    let entrance = Entrance(&job);
    pool.board.post(&job, crew);
    job.take_part(0..grip);
    drop(entrance);
    pool.board.withdraw(&job);
    // Whoever is still on the way here is idle, too.
    pool.idle.fetch_add(crew, Ordering::Relaxed);
    let panic = job.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(payload) = panic {
        panic::resume_unwind(payload);
    }
    let failure = job.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
    failure.map_or(Ok(()), |(_, error)| Err(error))
}

/// One call to [`run`], as its workers see it. A worker that wakes up too late finds it closed and goes: the caller
/// waits for those at work only. Waiting for all, as a scope of threads does, costs a wake-up where the tasks are short
/// and, where the CPUs are busy, milliseconds.
struct Job {
    work: &'static Work<'static>,
    tasks: usize,
    grip: usize,
    /// The lowest task not yet taken.
    next: AtomicUsize,
    /// The number of workers inside, plus `CLOSED` once no more may enter.
    inside: AtomicUsize,
    /// The payload of the first panic.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// The lowest task that failed, and its error.
    failure: Mutex<Option<(usize, Error)>>,
    caller: Thread,
}

impl Job {
    const CLOSED: usize = 1 << (usize::BITS - 1);
    /// How often the caller looks before it sleeps: about as long as falling asleep and waking up would take.
    const LOOKS: usize = 200;

    /// A worker's part.
    fn help(&self) {
        let enter = |inside: usize| (inside < Self::CLOSED).then_some(inside + 1);
        if self.inside.fetch_update(Ordering::Acquire, Ordering::Relaxed, enter).is_ok() {
            self.take_part(0..0);
            if self.inside.fetch_sub(1, Ordering::Release) == Self::CLOSED + 1 {
                self.caller.unpark();
            }
        }
    }

    /// Does the tasks that are `taken` already, and takes more until none is left. A panic ends that for all.
    fn take_part(&self, taken: Range<usize>) {
        INSIDE_TASK.set(true);
        let mut tasks = Tasks { next: &self.next, count: self.tasks, grip: self.grip, taken };
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| (self.work)(&mut tasks)));
        INSIDE_TASK.set(false);
        match outcome {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                self.next.store(self.tasks, Ordering::Relaxed);
                let task = tasks.taken.start;
                let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
                if failure.as_ref().is_none_or(|(lowest, _)| task < *lowest) {
                    *failure = Some((task, error));
                }
            }
            Err(payload) => {
                self.next.store(self.tasks, Ordering::Relaxed);
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
            }
        }
    }
}

/// The caller's hold on a job; dropping it closes the job.
struct Entrance<'a>(&'a Job);

impl Drop for Entrance<'_> {
    fn drop(&mut self) {
        let mut inside = self.0.inside.fetch_or(Job::CLOSED, Ordering::Acquire);
        let mut looks = 0;
        while inside & !Job::CLOSED > 0 {
            if looks < Job::LOOKS {
                looks += 1;
                hint::spin_loop();
            } else {
                thread::park();
            }
            inside = self.0.inside.load(Ordering::Acquire);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_comes_too_late_leaves_at_once() {
        let job = Job {
            work: &|_: &mut Tasks<'_>| panic!("the job is over"),
            tasks: 2,
            grip: 1,
            next: AtomicUsize::new(1),
            inside: AtomicUsize::new(0),
            panic: Mutex::new(None),
            failure: Mutex::new(None),
            caller: thread::current(),
        };
        drop(Entrance(&job));
        job.help();
        assert_eq!(job.inside.into_inner(), Job::CLOSED);
        assert!(job.panic.into_inner().unwrap().is_none());
    }

    #[test]
    fn workers_go_back_to_the_pool() {
        let pool = Pool::new(2).unwrap();
        for panics in [false, true, false] {
            pool.idle.fetch_sub(2, Ordering::Relaxed);
            let work = |tasks: &mut Tasks<'_>| {
                tasks.for_each(|task| assert!(task < 2 || !panics));
                Ok(())
            };
            let outcome = panic::catch_unwind(AssertUnwindSafe(|| share(&pool, 2, (3, 1), &work)));
            assert_eq!(outcome.is_err(), panics);
            assert_eq!(pool.idle.load(Ordering::Relaxed), 2);
        }
    }
}
