"""Pure decisions: placement, later balance and evacuation. Every answer carries its reasons; nothing here acts."""
