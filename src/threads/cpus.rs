//! The CPUs that workers run on: not the one of their caller, which is at work there itself.
//!
//! In a virtual machine the scheduler may place a woken thread on the CPU of the thread that wakes it, and move it only
//! milliseconds later. By then the caller has done the work of both.

/// The CPU that the calling thread runs on, where the system tells.
#[cfg(target_os = "linux")]
pub fn current() -> Option<usize> {
    nix::sched::sched_getcpu().ok()
}

/// Whether threads may choose their CPUs. A filter of system calls, if there is one, may end the process for that.
#[cfg(target_os = "linux")]
pub fn may_move() -> bool {
    let status = std::fs::read_to_string("/proc/self/status");
    status.is_ok_and(|status| status.lines().any(|line| line == "Seccomp:\t0"))
}

/// Moves the calling thread, if it runs on this CPU, to the others that it is allowed. It may come back once it has left
/// another one.
#[cfg(target_os = "linux")]
pub fn leave(cpu: usize) {
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;
    use std::cell::Cell;

    thread_local! {
        /// All CPUs that the thread is allowed, and the others, once it has left one.
        static CHOICE: Cell<Option<[CpuSet; 2]>> = const { Cell::new(None) };
    }
    let this = Pid::from_raw(0);
    if current() != Some(cpu) {
        return;
    }
    let Ok(now) = sched_getaffinity(this) else { return };
    // Whoever has changed them since then has the last word.
    let before = CHOICE.get().filter(|[_, others]| *others == now);
    let all = before.map_or(now, |[all, _]| all);
    let mut others = all;
    // The system refuses to leave a thread without a CPU.
    if others.unset(cpu).is_ok() && sched_setaffinity(this, &others).is_ok() {
        CHOICE.set(Some([all, others]));
    }
}

#[cfg(not(target_os = "linux"))]
pub fn current() -> Option<usize> {
    None
}

#[cfg(not(target_os = "linux"))]
pub fn may_move() -> bool {
    false
}

#[cfg(not(target_os = "linux"))]
pub fn leave(_cpu: usize) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
    use nix::unistd::Pid;
    use std::thread;

    const THIS: Pid = Pid::from_raw(0);

    fn allowed() -> Vec<usize> {
        let set = sched_getaffinity(THIS).unwrap();
        (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap()).collect()
    }

    fn allow(cpus: &[usize]) {
        let mut set = CpuSet::new();
        for &cpu in cpus {
            set.set(cpu).unwrap();
        }
        sched_setaffinity(THIS, &set).unwrap();
    }

    #[test]
    fn a_thread_leaves_a_cpu_and_may_come_back_when_it_leaves_another() {
        let test = || {
            let all = allowed();
            let mut moves = 0;
            for _ in 0..1000 {
                let here = current().unwrap();
                let before = allowed();
                leave(here);
                let now = allowed();
                // A thread that was moved in between has nothing to leave.
                if now == before {
                    continue;
                }
                let others: Vec<_> = all.iter().copied().filter(|&cpu| cpu != here).collect();
                assert_eq!(now, others, "after leaving {here}");
                assert!(others.contains(&current().unwrap()));
                moves += 1;
            }
            // With several CPUs there always is one to leave.
            assert!(all.len() == 1 || moves > 1, "{all:?}");
        };
        thread::spawn(test).join().unwrap();
    }

    #[test]
    fn a_thread_with_one_cpu_stays() {
        for cpu in allowed() {
            let test = move || {
                allow(&[cpu]);
                leave(cpu);
                assert_eq!(allowed(), [cpu]);
            };
            thread::spawn(test).join().unwrap();
        }
    }

    #[test]
    fn a_thread_that_runs_elsewhere_stays() {
        let test = || {
            let all = allowed();
            allow(&all[..1]);
            leave(all[0] + 1);
            assert_eq!(allowed(), all[..1]);
        };
        thread::spawn(test).join().unwrap();
    }
}
