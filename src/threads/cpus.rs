//! The CPUs that workers run on: not the one of their caller, which is at work there itself.
//!
//! Schedulers of virtual machines may wake a thread where the one runs that wakes it, to leave the other CPUs asleep, and
//! move it only after milliseconds. By then the caller has done the work of both.

#[cfg(target_os = "linux")]
use nix::{
    sched::{sched_getaffinity, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};

/// The CPU that the calling thread runs on, where the system tells.
#[cfg(target_os = "linux")]
pub fn current() -> Option<usize> {
    sched_getcpu().ok()
}

/// Moves the calling thread, if it runs on this CPU, to the others that the process is allowed: those of its first thread.
#[cfg(target_os = "linux")]
pub fn leave(cpu: usize) {
    if current() == Some(cpu)
        && let Ok(mut others) = sched_getaffinity(Pid::this())
        && others.unset(cpu).is_ok()
    {
        // The system refuses if no other is left.
        sched_setaffinity(Pid::from_raw(0), &others).ok();
    }
}

#[cfg(not(target_os = "linux"))]
pub fn current() -> Option<usize> {
    None
}

#[cfg(not(target_os = "linux"))]
pub fn leave(_cpu: usize) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use nix::sched::CpuSet;
    use std::thread;

    fn allowed(thread: Pid) -> Vec<usize> {
        let set = sched_getaffinity(thread).unwrap();
        (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap()).collect()
    }

    /// Leaves a CPU in a thread of its own, and returns where that may run then.
    fn after_leaving(cpu: fn() -> Option<usize>) -> (usize, Vec<usize>) {
        let run = move || {
            let cpu = cpu().unwrap();
            leave(cpu);
            let now = allowed(Pid::from_raw(0));
            assert!(now.contains(&current().unwrap()));
            (cpu, now)
        };
        thread::spawn(run).join().unwrap()
    }

    #[test]
    fn a_thread_leaves_the_cpu_that_it_runs_on() {
        let all = allowed(Pid::this());
        let (left, now) = after_leaving(current);
        let others: Vec<_> = all.iter().copied().filter(|&cpu| cpu != left).collect();
        // The only CPU is not left, nor one that the thread was moved away from in between.
        assert!(now == others || now == all, "{left} of {all:?}: {now:?}");
    }

    #[test]
    fn a_thread_that_runs_elsewhere_stays() {
        assert_eq!(after_leaving(|| Some(CpuSet::count() - 1)).1, allowed(Pid::this()));
    }
}
