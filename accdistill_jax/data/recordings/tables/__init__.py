"""Helpers of readers of tables: descriptions, columns of CSV and Parquet files, and the times of their rows."""
