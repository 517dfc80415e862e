"""Lightning training of draft models: EAGLE heads and small LMs."""
