//! Calls that can be told to stop: the calling thread asks now and then whether to, and all threads at work look at a flag.

use crate::error::{Error, Result};
use std::cell::RefCell;
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Says whether the call is to stop. It may make calls of its own.
pub type Poll = fn() -> bool;

/// How often a calling thread polls.
pub(super) const INTERVAL: Duration = Duration::from_millis(50);

thread_local! {
    /// The call that this thread works for, if it can be told to stop.
    static CALL: RefCell<Option<RunningCall>> = const { RefCell::new(None) };
}

/// What a thread knows of the call that it works for.
#[derive(Clone)]
pub(super) struct RunningCall {
    stopped: Arc<AtomicBool>,
    /// Of the calling thread: what it polls, and when it does so next.
    poll: Option<(Poll, Instant)>,
}

impl RunningCall {
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// What is to be polled now. A call that was told to stop does not ask again.
    fn due(&self) -> Option<Poll> {
        let (poll, next) = self.poll?;
        (!self.is_stopped() && Instant::now() >= next).then_some(poll)
    }
}

/// Runs `f`, whose calls of losses fail with [`Error::interrupted`] soon after `poll` says so.
///
/// The calling thread polls at once and then about twenty times a second while it works or waits. A poll that panics
/// stops the call.
pub fn interruptible<R>(poll: Poll, f: impl FnOnce() -> R) -> R {
    let poll = Some((poll, Instant::now()));
    within(Some(RunningCall { stopped: Arc::default(), poll }), f)
}

/// Runs `f` as a part of a call.
pub(super) fn within<R>(call: Option<RunningCall>, f: impl FnOnce() -> R) -> R {
    struct RestoreCall(Option<RunningCall>);
    impl Drop for RestoreCall {
        fn drop(&mut self) {
            CALL.set(self.0.take());
        }
    }
    let _restore = RestoreCall(CALL.replace(call));
    f()
}

/// What a worker has to know of the call that this thread works for.
pub(super) fn current() -> Option<RunningCall> {
    CALL.with_borrow(|call| {
        Some(RunningCall { stopped: Arc::clone(&call.as_ref()?.stopped), poll: None })
    })
}

/// Fails if the call that this thread works for is to stop. Loops that run for long within one task ask now and then; it
/// takes about as long as it takes to read the clock.
pub(crate) fn check() -> Result<()> {
    if let Some(poll) = CALL.with_borrow(|call| call.as_ref()?.due()) {
        ask(poll);
    }
    if is_stopped() { Err(Error::interrupted()) } else { Ok(()) }
}

pub(super) fn is_stopped() -> bool {
    CALL.with_borrow(|call| call.as_ref().is_some_and(RunningCall::is_stopped))
}

#[cold]
fn ask(poll: Poll) {
    let call = CALL.take();
    let stop = panic::catch_unwind(poll).unwrap_or(true);
    if let Some(call) = &call
        && stop
    {
        call.stopped.store(true, Ordering::Relaxed);
    }
    CALL.set(
        call.map(|call| RunningCall { poll: Some((poll, Instant::now() + INTERVAL)), ..call }),
    );
}
