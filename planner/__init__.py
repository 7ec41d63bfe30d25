"""Ground floor: hardware, models, workloads and plans; imports no torch and none of the others."""
