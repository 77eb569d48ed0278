"""Results of training, as the paper has them: studies, who runs them, and the page that shows them."""
