"""What there is to plan with: devices, their prices, models and engines."""
