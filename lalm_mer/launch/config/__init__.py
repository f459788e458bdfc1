"""What a recipe's YAML may say."""
