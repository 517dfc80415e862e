"""Draft models behind one interface: what is proposed, never what is accepted."""
