//! What can be typed behind `anneal diff`.
//!
//! Unaware of how runs are found and compared.
use super::Outputs;
use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The run to compare with: its name or a part at either end of it, the path of its folder, or `latest` or `previous`
    /// for the newest two.
    #[arg(value_name = "BASE")]
    pub(crate) base: String,
    /// The run to look at, said likewise.
    #[arg(value_name = "RUN")]
    pub(crate) run: String,
    #[command(flatten)]
    pub(crate) outputs: Outputs,
    /// Only runs of this experiment are `latest` and `previous`.
    #[arg(long, value_name = "NAME")]
    pub(crate) experiment: Option<String>,
    /// Write Markdown, made for the comment on a pull request.
    #[arg(long, conflicts_with = "json")]
    pub(crate) markdown: bool,
    /// Write JSON, which leaves nothing out.
    #[arg(long)]
    pub(crate) json: bool,
}
