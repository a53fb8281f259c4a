"""The topology layer: knowledge map (G-KRRM) and the views that decisions are made on (MS-DRRT)."""
