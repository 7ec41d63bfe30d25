"""An explanation as text for a terminal."""

from router.prediction.explanation import Explanation
from router.prediction.predictor import Predictor


def explanation_text(predictor: Predictor, explanation: Explanation) -> str:
    """Return the words, the predictions with their terms, the pick and its reason."""
    prediction, choice = explanation.prediction, explanation.choice
    terms = choice.objective.terms
    goals = "".join(f"{goal:>15}" for goal in terms)
    width = max(map(len, prediction.models))
    lines = [f"{'model':<{width}}  quality    +/-{goals}   objective"]
    for place in choice.order:
        parts = "".join(f"{part[place]:>15.3f}" for part in terms.values())
        lines.append(
            f"{prediction.models[place]:<{width}}  {prediction.qualities[place]:>7.3f}"
            f"{prediction.standard_errors[place]:>7.3f}{parts}"
            f"{choice.objective.totals[place]:>12.3f}"
        )
    if explanation.left_out:
        lines += ["", f"not as good as asked: {', '.join(explanation.left_out)}"]
    pick, single = explanation.pick, explanation.best_single
    lines += [
        "",
        f"pick: {pick} ({choice.reason}); best single model: {single}; a lead must be "
        f"{predictor.settings.abstain_margin:g} standard errors",
        "",
        f"what moves the predicted loss of {pick}, beside the mean of all models (the regression's "
        f"part, {predictor.settings.ridge_share:.0%} of the blend; below 0 speaks for it):",
    ]
    lines += [f"  {one.loss:+.4f}  {one.name}" for one in explanation.contributions]
    return "\n".join(lines)
