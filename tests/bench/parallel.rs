//! Several things at a time.

use std::sync::Mutex;
use std::thread;

/// Does all of it, so much at a time, and returns what came out, in no particular order.
pub(crate) fn all<T: Send, R: Send>(work: Vec<T>, at_once: usize, one: impl Fn(T) -> R + Sync) -> Vec<R> {
    let (work, done) = (Mutex::new(work.into_iter()), Mutex::new(Vec::new()));
    let next = || work.lock().expect("no panic").next();
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(task) = next() {
                    let result = one(task);
                    done.lock().expect("no panic").push(result);
                }
            });
        }
    });
    done.into_inner().expect("no panic")
}
