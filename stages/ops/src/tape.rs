//! The tape: nodes in order of creation, run latest first, with one `Gradients` for each dtype and lifetime.
//!
//! dfdx's own `OwnedTape` knows one gradient dtype and keeps every gradient until backward ends. This one lets a node
//! see activations' and parameters' gradients together, and parameters' gradients outlive it, so that micro-batches
//! accumulate. Unaware of what the nodes compute.

use std::sync::atomic::{AtomicU64, Ordering};

use dfdx::prelude::{Gradients, Merge, NoneTape, Tape};
use dfdx::tensor::HasErr;

use crate::backend::Backend;
use crate::{Category, OpError};

/// Gradients by what they belong to. `acts` lives within one backward; the others accumulate over any number of them.
pub struct Grads<B: Backend> {
    /// Of activations. Empty before and after [`OpTape::backward`].
    pub acts: Gradients<B::Elem, B>,
    /// Of big weights, in the dtype of activations.
    pub weights: Gradients<B::Elem, B>,
    /// Of f32 parameters: LoRA A and B, norm weights, biases.
    pub params: Gradients<f32, B>,
}

impl<B: Backend> Default for Grads<B> {
    fn default() -> Self {
        Self { acts: Gradients::leaky(), weights: Gradients::leaky(), params: Gradients::leaky() }
    }
}

impl<B: Backend> Grads<B> {
    /// Drops every gradient. [`crate::adamw::step`] zeroes those that it has used instead, and keeps their memory.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Where an op puts its backward: on a tape ([`OpTape`]) or nowhere (`NoneTape`, for inference).
pub trait Record<B: Backend>: Tape<B::Elem, B> + 'static {
    /// Whether backward will run. Where it is false, ops save nothing.
    const RECORDS: bool;

    /// Adds a backward node. It takes (not copies) the gradients of the op's outputs from `acts` and adds (`+=`) to
    /// those of its inputs.
    fn record(&mut self, node: impl FnOnce(&mut Grads<B>) -> Result<(), OpError> + 'static);
}

impl<B: Backend> Record<B> for NoneTape {
    const RECORDS: bool = false;
    fn record(&mut self, _: impl FnOnce(&mut Grads<B>) -> Result<(), OpError> + 'static) {}
}

type StockNode<B> = Box<dyn FnOnce(&mut Gradients<<B as crate::Memory>::Elem, B>) -> Result<(), <B as HasErr>::Err>>;
type OwnNode<B> = Box<dyn FnOnce(&mut Grads<B>) -> Result<(), OpError>>;

enum Node<B: Backend> {
    /// A stock dfdx op between activations.
    Stock(StockNode<B>),
    /// An op of this crate.
    Own(OwnNode<B>),
}

/// Backward nodes, each with its global time of creation.
pub struct OpTape<B: Backend> {
    nodes: Vec<(u64, Node<B>)>,
}

impl<B: Backend> Default for OpTape<B> {
    fn default() -> Self {
        Self { nodes: Vec::new() }
    }
}

impl<B: Backend> OpTape<B> {
    fn push(&mut self, node: Node<B>) {
        // One clock for all tapes: after a merge, nodes of both sort into the order in which they were made.
        static CLOCK: AtomicU64 = AtomicU64::new(0);
        self.nodes.push((CLOCK.fetch_add(1, Ordering::Relaxed), node));
    }

    /// Number of nodes recorded so far.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether nothing was recorded.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Runs the nodes, latest first, and adds (`+=`) to `grads.weights` and `grads.params`. A node and what it saved
    /// are dropped as soon as it has run. `grads.acts` is empty afterwards, also after an error.
    pub fn backward(self, grads: &mut Grads<B>) -> Result<(), OpError> {
        let result = self.run(grads);
        grads.acts = Gradients::leaky();
        result
    }

    /// Like [`OpTape::backward`], but leaves `grads.acts` as the nodes leave it. Lack of memory that says nothing else is
    /// for activations.
    pub(crate) fn run(mut self, grads: &mut Grads<B>) -> Result<(), OpError> {
        self.nodes.sort_by_key(|(time, _)| *time);
        while let Some((_, node)) = self.nodes.pop() {
            let ran = match node {
                Node::Stock(node) => node(&mut grads.acts).map_err(OpError::device),
                Node::Own(node) => node(grads),
            };
            ran.map_err(|error| error.lacking(Category::Activations))?;
        }
        Ok(())
    }
}

impl<B: Backend> Record<B> for OpTape<B> {
    const RECORDS: bool = true;
    fn record(&mut self, node: impl FnOnce(&mut Grads<B>) -> Result<(), OpError> + 'static) {
        self.push(Node::Own(Box::new(node)));
    }
}

impl<B: Backend> Tape<B::Elem, B> for OpTape<B> {
    const OWNS_TAPE: bool = true;
    fn add_backward_op<F>(&mut self, node: F)
    where
        F: 'static + FnOnce(&mut Gradients<B::Elem, B>) -> Result<(), <B as HasErr>::Err>,
    {
        self.push(Node::Stock(Box::new(node)));
    }
}

impl<B: Backend> Merge<NoneTape> for OpTape<B> {
    fn merge(self, _: NoneTape) -> Self {
        self
    }
}

impl<B: Backend> Merge<OpTape<B>> for OpTape<B> {
    fn merge(mut self, mut other: Self) -> Self {
        self.nodes.append(&mut other.nodes);
        self
    }
}

#[cfg(test)]
mod tests {
    use dfdx::prelude::{Cpu, PutTape, SplitTape};

    use super::*;
    use crate::host::{act_from_vec, act_to_vec};
    use crate::testing::{Leaf, backward};
    use crate::{ParamRef, add, swiglu};

    #[test]
    fn stock_dfdx_ops_and_ours_share_a_tape() {
        let dev = Cpu::default();
        let (x, grad) = Leaf::new(&dev, vec![1.0, -2.0, 0.5, 3.0], 2, 2).split();
        let squared = x.square();
        let twice = add(squared, act_from_vec(&dev, vec![1.0; 4], 2, 2).unwrap().put_tape(OpTape::default())).unwrap();
        let out = twice * 3.0;
        assert_eq!(act_to_vec::<Cpu, _>(&out), [6.0, 15.0, 3.75, 30.0]);
        let mut grads = Grads::default();
        backward(out, &[1.0, 1.0, 1.0, 10.0], &mut grads);
        assert_eq!(grad.read(), [6.0, -12.0, 3.0, 180.0]);
    }

    #[test]
    fn merged_tapes_run_in_the_order_of_creation() {
        let order = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
        let node = |name: u32| {
            let order = order.clone();
            move |_: &mut Grads<Cpu>| {
                order.borrow_mut().push(name);
                Ok(())
            }
        };
        let (mut a, mut b) = (OpTape::<Cpu>::default(), OpTape::<Cpu>::default());
        a.record(node(1));
        b.record(node(2));
        a.record(node(3));
        b.record(node(4));
        let tape = b.merge(a);
        assert_eq!((tape.len(), tape.is_empty()), (4, false));
        tape.backward(&mut Grads::default()).unwrap();
        assert_eq!(*order.borrow(), [4, 3, 2, 1]);
    }

    #[test]
    fn activations_gradients_are_gone_after_backward_even_if_it_fails() {
        let dev = Cpu::default();
        let x = act_from_vec(&dev, vec![1.0; 4], 2, 2).unwrap();
        let mut tape = OpTape::<Cpu>::default();
        tape.record(|_| Err(OpError::argument("test", "no")));
        let (_, tape) = swiglu(x.clone().put_tape(tape), x.clone().put_tape(OpTape::default())).unwrap().split_tape();
        let mut grads = Grads::<Cpu>::default();
        grads.acts.get_or_alloc_mut(&x).unwrap()[0] = 5.0;
        assert_eq!(tape.backward(&mut grads).unwrap_err().to_string(), "test: no");
        assert_eq!(grads.acts.get_or_alloc_mut(&x).unwrap()[0], 0.0);
    }

    #[test]
    fn an_activations_gradient_is_freed_as_soon_as_it_is_used() {
        let dev = Cpu::default();
        let act = || act_from_vec(&dev, vec![1.0; 4], 2, 2).unwrap();
        let (first, mut tape) =
            add(act().put_tape(OpTape::default()), act().put_tape(OpTape::default())).unwrap().split_tape();
        let second = add(first.clone().put_tape(OpTape::default()), act().put_tape(OpTape::default())).unwrap();
        let (ghost, lengths) = (second.ghost(), std::rc::Rc::new(std::cell::RefCell::new(Vec::new())));
        let seen = lengths.clone();
        // Made after both, so it runs before them; the next one is merged in between.
        let (second, second_tape) = second.split_tape();
        let mut nodes = second_tape.nodes;
        let check: OwnNode<Cpu> = Box::new(move |grads| {
            seen.borrow_mut().push(grads.acts.get_or_alloc_mut(&ghost).map_err(OpError::device)?.len());
            Ok(())
        });
        nodes.insert(0, (nodes[0].0, Node::Own(check)));
        tape.nodes.append(&mut nodes);
        backward(second.put_tape(tape), &[1.0; 4], &mut Grads::default());
        assert_eq!(*lengths.borrow(), [0], "after its node has run, nothing of the gradient is left");
    }

    #[test]
    fn a_none_tape_records_nothing() {
        let mut tape = NoneTape;
        Record::<Cpu>::record(&mut tape, |_| Err(OpError::argument("test", "never runs")));
        const { assert!(!<NoneTape as Record<Cpu>>::RECORDS && <OpTape<Cpu> as Record<Cpu>>::RECORDS) }
    }

    #[test]
    fn clearing_drops_every_gradient() {
        let dev = Cpu::default();
        let mut w = crate::weight_from_vec(&dev, vec![1.0], 1, 1).unwrap();
        let (w, mut grads) = (ParamRef::<Cpu>::Weight(&mut w), Grads::default());
        w.write_grad(&mut grads, &[2.0]).unwrap();
        grads.clear();
        assert_eq!(w.read_grad(&mut grads).unwrap(), [0.0]);
    }
}
