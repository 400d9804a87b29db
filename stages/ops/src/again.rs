//! Selective checkpointing: an op's input that is made again in backward instead of being held until then.
//!
//! For inputs that are cheap to make from what is held anyway: a norm of the residual stream, SwiGLU of gate and up. No
//! matrix product runs twice. Unaware of what is made.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::OpError;
use crate::backend::{Act, Backend};

/// How to make an activation again, for the backward nodes that share it. It exists from the first of them to the last.
pub struct Again<B: Backend> {
    make: Box<dyn Fn() -> Result<Act<B>, OpError>>,
    made: RefCell<Option<Act<B>>>,
    /// Nodes that have not had it yet.
    users: Cell<usize>,
}

impl<B: Backend> Again<B> {
    /// `make` must give the bits that forward had.
    pub fn new(make: impl Fn() -> Result<Act<B>, OpError> + 'static) -> Rc<Self> {
        Rc::new(Self { make: Box::new(make), made: RefCell::new(None), users: Cell::new(0) })
    }
}

/// An op's input as its backward node will have it.
pub(crate) enum Kept<B: Backend> {
    /// Held since forward.
    Held(Act<B>),
    /// Made again.
    Again(Rc<Again<B>>),
}

impl<B: Backend> Kept<B> {
    /// Holds `x`, or counts on `again` to make it.
    pub(crate) fn new(x: Act<B>, again: Option<&Rc<Again<B>>>) -> Self {
        match again {
            None => Self::Held(x),
            Some(again) => {
                again.users.set(again.users.get() + 1);
                Self::Again(again.clone())
            }
        }
    }

    /// The input. To be called once, by the node that holds this.
    pub(crate) fn get(&self) -> Result<Act<B>, OpError> {
        let again = match self {
            Self::Held(x) => return Ok(x.clone()),
            Self::Again(again) => again,
        };
        let mut made = again.made.borrow_mut();
        let x = match made.take() {
            Some(x) => x,
            None => (again.make)()?,
        };
        again.users.set(again.users.get().saturating_sub(1));
        if again.users.get() > 0 {
            *made = Some(x.clone());
        }
        Ok(x)
    }
}

#[cfg(test)]
mod tests {
    use dfdx::prelude::Cpu;

    use super::*;
    use crate::host::{act_from_vec, act_to_vec};

    #[test]
    fn it_is_made_once_for_all_and_dropped_after_the_last() {
        let calls = Rc::new(Cell::new(0));
        let counted = calls.clone();
        let again = Again::<Cpu>::new(move || {
            counted.set(counted.get() + 1);
            act_from_vec(&Cpu::default(), vec![1.0, 2.0], 1, 2)
        });
        let x = act_from_vec(&Cpu::default(), vec![1.0, 2.0], 1, 2).unwrap();
        let kept = [(); 3].map(|()| Kept::new(x.clone(), Some(&again)));
        for (user, kept) in kept.iter().enumerate() {
            assert_eq!(act_to_vec(&kept.get().unwrap()), [1.0, 2.0]);
            assert_eq!(again.made.borrow().is_some(), user < 2);
        }
        assert_eq!(calls.get(), 1);
        assert_eq!(act_to_vec(&Kept::<Cpu>::new(x, None).get().unwrap()), [1.0, 2.0]);
    }
}
