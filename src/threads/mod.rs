//! Threads: the one place that runs work in parallel.
//!
//! [`run`] splits work into tasks that its caller numbers. No result depends on which thread runs a task, nor on the number of
//! threads: results are kept in slots by index, and have the same bits for any number.
//!
//! The threads are those of a private rayon pool, made at the first parallel call and kept for one process only. A forked
//! child inherits the memory of its parent's pool but none of its threads: waiting for them would hang. A handler run by
//! `fork` therefore raises a generation number, and the child builds a pool of its own and leaks the inherited one, whose
//! locks a thread that no longer exists may be holding.

mod cancel;
mod count;
mod cpus;
mod pool;
mod published;
#[cfg(test)]
mod tests;

pub use cancel::{Poll, interruptible};
pub use count::{
    environment_warnings, max_num_threads, num_threads, set_num_threads, with_num_threads,
};

pub(crate) use cancel::check;
#[cfg(feature = "python")]
pub(crate) use count::exchange_local_threads;
pub(crate) use count::part;

use crate::error::{Error, Result};
use cancel::RunningCall;
use pool::Pool;
use std::any::Any;
use std::cell::Cell;
use std::hint;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

thread_local! {
    static INSIDE_TASK: Cell<bool> = const { Cell::new(false) };
}

/// Work that pays to share with workers that are awake, and work that pays to wake one for, in nanoseconds.
const SHARED_NS: f64 = 4_096.0;
pub(crate) const WAKING_NS: f64 = 20_000.0;

/// What a thread takes at a time, in nanoseconds, unless its share is less: neighbouring tasks stay in the cache of one CPU.
const CHUNK_NS: f64 = 8_192.0;

/// The tasks that fall to one thread: a chunk at a time, while other threads take theirs.
pub struct Tasks<'a> {
    /// The lowest task not yet taken.
    next: &'a AtomicUsize,
    count: usize,
    chunk: usize,
    taken: Range<usize>,
}

impl Iterator for Tasks<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.taken.is_empty() {
            if self.next.load(Ordering::Relaxed) >= self.count {
                return None;
            }
            // Nobody takes a task of a call that is to stop.
            check().ok()?;
            let start = self.next.fetch_add(self.chunk, Ordering::Relaxed).min(self.count);
            self.taken = start..(start + self.chunk).min(self.count);
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
/// # Errors
/// That of the lowest task that failed; [`Error::interrupted`] if the call was told to stop ([`interruptible`]).
///
/// # Panics
/// If `work` panics: with the payload of the first one, once no thread is inside any more. Tasks not yet taken at that
/// moment never run.
pub fn run(tasks: usize, ns: f64, work: &Work<'_>) -> Result<()> {
    let total = ns * tasks as f64;
    let chunk = (CHUNK_NS / ns) as usize;
    if total >= SHARED_NS
        && tasks > 1
        && !INSIDE_TASK.get()
        && let Some((pool, workers)) =
            Pool::reserve(tasks.min(num_threads()) - 1, total < WAKING_NS)
    {
        let chunk = chunk.clamp(1, tasks.div_ceil(workers + 1));
        share(&pool, workers, (tasks, chunk), work)?;
    } else {
        let (next, chunk) = (AtomicUsize::new(0), chunk.clamp(1, tasks.max(1)));
        fail_if_told(Place::Caller);
        work(&mut Tasks { next: &next, count: tasks, chunk, taken: 0..0 })?;
    }
    if cancel::is_stopped() { Err(Error::interrupted()) } else { Ok(()) }
}

/// Runs work that is too little to be split into tasks.
///
/// # Errors
/// [`Error::interrupted`] if the call was told to stop.
pub fn alone<R>(work: impl FnOnce() -> R) -> Result<R> {
    check()?;
    fail_if_told(Place::Caller);
    Ok(work())
}

/// Runs all tasks on the caller and on `workers` workers that are reserved for it.
fn share(
    pool: &Pool,
    workers: usize,
    (tasks, chunk): (usize, usize),
    work: &Work<'_>,
) -> Result<()> {
    let job = Arc::new(Job::new(tasks, chunk, &work));
    let entrance = Entrance { job: &job, patience: pool.patience() };
    pool.post(&job, workers);
    job.take_part(Place::Caller, 0..chunk);
    drop(entrance);
    // A worker that is still on the way here is idle, too.
    pool.release(workers);
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
    /// A reference to the work, which lives until the job is closed and no worker is inside; a pointer, since the job may
    /// live longer, and an atomic one, since all threads have it.
    work: AtomicPtr<&'static Work<'static>>,
    tasks: usize,
    chunk: usize,
    /// The lowest task not yet taken.
    next: AtomicUsize,
    /// The number of workers inside, plus `CLOSED` once no more may enter.
    inside: AtomicUsize,
    /// The payload of the first panic.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// The lowest task that failed, and its error.
    failure: Mutex<Option<(usize, Error)>>,
    /// The call that the job is a part of.
    call: Option<RunningCall>,
    caller: Thread,
}

impl Job {
    const CLOSED: usize = 1 << (usize::BITS - 1);

    /// A job whose first chunk is the caller's, in every call, so that its arrays stay in its CPU's cache.
    fn new(tasks: usize, chunk: usize, work: &&Work<'_>) -> Self {
        Job {
            work: AtomicPtr::new(ptr::from_ref(work).cast_mut().cast()),
            tasks,
            chunk,
            next: AtomicUsize::new(chunk),
            inside: AtomicUsize::new(0),
            panic: Mutex::new(None),
            failure: Mutex::new(None),
            call: cancel::current(),
            caller: thread::current(),
        }
    }

    /// Whether all tasks are taken.
    fn is_given_out(&self) -> bool {
        self.next.load(Ordering::Relaxed) >= self.tasks
    }

    /// A worker's part.
    fn help(&self) {
        let enter = |inside: usize| (inside < Self::CLOSED).then_some(inside + 1);
        if self.inside.fetch_update(Ordering::Acquire, Ordering::Relaxed, enter).is_ok() {
            cancel::within(self.call.clone(), || self.take_part(Place::Worker, 0..0));
            if self.inside.fetch_sub(1, Ordering::Release) == Self::CLOSED + 1 {
                self.caller.unpark();
            }
        }
    }

    /// Does the tasks that are `taken` already, and takes more until none is left. A panic ends that for all.
    fn take_part(&self, place: Place, taken: Range<usize>) {
        // SAFETY: the calling thread is inside the job: the work is alive, and what it borrows, too.
        let work = unsafe { *self.work.load(Ordering::Relaxed) };
        INSIDE_TASK.set(true);
        let mut tasks = Tasks { next: &self.next, count: self.tasks, chunk: self.chunk, taken };
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| {
            fail_if_told(place);
            work(&mut tasks)
        }));
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

/// The caller's hold on a job. Dropping it closes the job, lets no worker in any more and waits until all are out.
struct Entrance<'a> {
    job: &'a Job,
    /// How long to spin before the caller sleeps.
    patience: Duration,
}

impl Drop for Entrance<'_> {
    fn drop(&mut self) {
        let mut inside = self.job.inside.fetch_or(Job::CLOSED, Ordering::Acquire);
        let since = Instant::now();
        while inside & !Job::CLOSED > 0 {
            if since.elapsed() < self.patience {
                hint::spin_loop();
            } else {
                // The workers see themselves whether to stop, and the caller in the end.
                check().ok();
                thread::park_timeout(cancel::INTERVAL);
            }
            inside = self.job.inside.load(Ordering::Acquire);
        }
    }
}

/// Who runs tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The thread that calls [`run`].
    Caller = 1,
    /// A thread of the pool.
    Worker = 2,
}

/// The place that is to panic, or 0.
static TOLD_TO_FAIL: AtomicU8 = AtomicU8::new(0);

/// Has the next job panic at this place, for tests of what a panic becomes.
#[cfg(feature = "python")]
pub(crate) fn fail_next(place: Place) {
    TOLD_TO_FAIL.store(place as u8, Ordering::Relaxed);
}

fn fail_if_told(place: Place) {
    let told = TOLD_TO_FAIL.load(Ordering::Relaxed) == place as u8;
    let fails = told && TOLD_TO_FAIL.swap(0, Ordering::Relaxed) == place as u8;
    assert!(!fails, "told to fail in the {place:?}");
}
