"""How good a model is: metrics, their intervals, comparisons, pictures. The metrics need neither torch nor fairseq."""
