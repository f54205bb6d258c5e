"""Why language models refuse, comply and judge as they do: hooks, probes, traces, head ablation."""
